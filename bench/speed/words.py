"""Prompts of exactly n tokens for servers that accept only text: words that are one token each.

A token such as ``Ġhouse`` (byte-level BPE) or ``▁house`` (SentencePiece) includes the space before its word. Tokenizers
split a text between such words, so a sequence of them is encoded to the same tokens. This is verified with the
tokenizer itself; the server's count remains decisive, because it may add a token before the prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import SourceError

MARKS = ("Ġ", "▁")
"""Spellings of a space in vocabularies: byte-level BPE, SentencePiece."""


@dataclass(frozen=True)
class Words:
    """The words of one tokenizer that are one token each, anywhere in a sequence of such words."""

    by_id: Mapping[int, str]
    leading_space: bool
    """Whether a text starts with a space. SentencePiece adds one by itself."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the tokens that a prompt may be sampled from, in ascending order."""
        return tuple(sorted(self.by_id))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text that the tokenizer turns into ``ids``.

        An id without a word becomes the first word, because a probe may send any id.
        """
        any_word = self.by_id[min(self.by_id)]
        text = " ".join(self.by_id.get(token, any_word) for token in ids)
        return f" {text}" if self.leading_space else text


def candidates(vocabulary: Mapping[str, int]) -> Words:
    """Return the tokens of a vocabulary that are a space and letters of the English alphabet, not verified yet."""
    marks = {mark: sum(token.startswith(mark) for token in vocabulary) for mark in MARKS}
    mark = max(MARKS, key=lambda each: marks[each])
    words = {token[1:]: number for token, number in vocabulary.items() if token.startswith(mark)}
    by_id = {number: word for word, number in words.items() if word.isascii() and word.isalpha()}
    return Words(by_id=by_id, leading_space=mark == MARKS[0])


def read_words(tokenizer_json: Path) -> Words:
    """Return the words of a Hugging Face ``tokenizer.json`` that are verified to encode to a single token.

    Needs the package ``tokenizers``.

    Raises:
        SourceError: the file cannot be read, or has no such words.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # the library raises nothing more specific
        raise SourceError(f"{tokenizer_json} is not a readable tokenizer ({error})") from error
    vocabulary = candidates(tokenizer.get_vocab(with_added_tokens=False))
    order = vocabulary.ids
    encoded = tokenizer.encode_batch([vocabulary.text([token]) for token in order], add_special_tokens=False)
    single = {
        token: vocabulary.by_id[token]
        for token, encoding in zip(order, encoded, strict=True)
        if encoding.ids == [token]
    }
    words = Words(by_id=single, leading_space=vocabulary.leading_space)
    if not single or tuple(tokenizer.encode(words.text(words.ids), add_special_tokens=False).ids) != words.ids:
        raise SourceError(
            f"{tokenizer_json} has no words that remain one token each, so no prompt of an exact length is possible"
        )
    return words
