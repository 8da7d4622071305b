"""Prompts of exactly n tokens for servers that take text alone: whole words that are one token each.

A token such as ``Ġhouse`` (byte-level BPE) or ``▁house`` (SentencePiece) carries the space before its word. Words cut
a text where the tokenizer cuts it too, so a row of them comes back as the same tokens. That is checked with the
tokenizer itself; what a server counts stays the judge, for it may put a token of its own before the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import SourceError

MARKS = ("Ġ", "▁")
"""How vocabularies write a space: byte-level BPE, SentencePiece."""


@dataclass(frozen=True)
class Words:
    """The words of one tokenizer that are one token each, wherever they stand in a row of such words."""

    by_id: Mapping[int, str]
    leading_space: bool
    """Whether a text begins with a space. SentencePiece puts one there by itself."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the tokens that a prompt may be drawn from, in order."""
        return tuple(sorted(self.by_id))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text that the tokenizer turns into ``ids``.

        An id that is none of these words is written as the first of them: a probe may send any.
        """
        any_word = self.by_id[min(self.by_id)]
        text = " ".join(self.by_id.get(token, any_word) for token in ids)
        return f" {text}" if self.leading_space else text


def candidates(vocabulary: Mapping[str, int]) -> Words:
    """Return the tokens of a vocabulary that are a space and letters of the English alphabet, unchecked."""
    marks = {mark: sum(token.startswith(mark) for token in vocabulary) for mark in MARKS}
    mark = max(MARKS, key=lambda each: marks[each])
    words = {token[1:]: number for token, number in vocabulary.items() if token.startswith(mark)}
    by_id = {number: word for word, number in words.items() if word.isascii() and word.isalpha()}
    return Words(by_id=by_id, leading_space=mark == MARKS[0])


def read_words(tokenizer_json: Path) -> Words:
    """Return the words of a Hugging Face ``tokenizer.json``, each checked to come back as its one token.

    Needs the package ``tokenizers``.

    Raises:
        SourceError: the file cannot be read, or has no such words.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # the library raises nothing more precise
        raise SourceError(f"{tokenizer_json} is no tokenizer that can be read ({error})") from error
    vocabulary = candidates(tokenizer.get_vocab(with_added_tokens=False))
    order = vocabulary.ids
    encoded = tokenizer.encode_batch([vocabulary.text([token]) for token in order], add_special_tokens=False)
    whole = {
        token: vocabulary.by_id[token]
        for token, encoding in zip(order, encoded, strict=True)
        if encoding.ids == [token]
    }
    words = Words(by_id=whole, leading_space=vocabulary.leading_space)
    if not whole or tuple(tokenizer.encode(words.text(words.ids), add_special_tokens=False).ids) != words.ids:
        raise SourceError(
            f"{tokenizer_json} has no words that stay one token each; no prompt of exact length can be made"
        )
    return words
