"""Decode token ids to text as they arrive, holding back characters whose bytes are incomplete."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_PENDING = 4
"""Most tokens that wait for the rest of a character: UTF-8 has at most four bytes, a token at least one."""


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token_id: int | None

    def encode(self, text: str) -> list[int]:
        """Return token ids, with the special tokens that a prompt of this model begins with."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ``tokens``."""


class TextStream:
    """The growing text of one answer."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self.text = ""
        """The text that later tokens cannot change."""
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._window: list[int] = []
        """The last tokens; the first ``_shown`` are already in ``text`` and only give context (leading spaces)."""
        self._shown = 0

    def push(self, token: int) -> str:
        """Take the next token and return the text that became final."""
        self._window.append(token)
        before = self._decode(self._window[: self._shown])
        now = self._decode(self._window)
        pending = len(self._window) - self._shown
        if now.endswith(REPLACEMENT) and pending < MAX_PENDING:
            return ""
        added = now[len(before) :]
        self.text += added
        del self._window[: self._shown]
        self._shown = pending
        return added

    def whole(self, tokens: Sequence[int], stop: str | None) -> str:
        """Return the final text of all ``tokens``, decoded together and truncated before ``stop``."""
        text = self._decode(tokens)
        return text if stop is None else text.partition(stop)[0]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=self._skip)


def first_stop(text: str, added: int, stops: Sequence[str]) -> str | None:
    """Return the first of ``stops`` that ends within the last ``added`` characters of ``text``, or None."""
    for stop in stops:
        if text.find(stop, max(0, len(text) - added - len(stop) + 1)) >= 0:
            return stop
    return None
