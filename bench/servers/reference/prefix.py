"""The prefix cache: finished sequences, looked up by the longest common prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.servers.reference.kv import SequenceKV

Tokens = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Entry:
    tokens: Tokens
    kv: SequenceKV


def common(left: Tokens, right: Tokens) -> int:
    """Return how many leading tokens two sequences share."""
    n = min(len(left), len(right))
    differs = left[:n] != right[:n]
    return int(differs.argmax()) if differs.any() else n


class PrefixCache:
    """An LRU cache of finished sequences, with at most ``max_tokens`` positions in total."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._entries: list[_Entry] = []
        """Least recently used first."""

    def known(self, tokens: Tokens, limit: int) -> int:
        """Return how many leading positions of ``tokens``, at most ``limit``, could be reused."""
        return max((common(entry.tokens, tokens[:limit]) for entry in self._entries), default=0)

    def longest(self, tokens: Tokens, limit: int, reserve: int) -> SequenceKV:
        """Return keys and values of the longest cached prefix of ``tokens``, ready to be extended.

        Args:
            tokens: the prompt.
            limit: most positions to reuse.
            reserve: positions to make room for.

        Returns:
            A new sequence whose ``length`` is the number of reused positions, 0 if none.
        """
        wanted = tokens[:limit]
        lengths = [common(entry.tokens, wanted) for entry in self._entries]
        best = max(lengths, default=0)
        if best == 0:
            return SequenceKV(reserve)
        entry = self._entries.pop(lengths.index(best))
        self._entries.append(entry)
        return entry.kv.prefix(best, reserve)

    def insert(self, tokens: Sequence[int], kv: SequenceKV) -> None:
        """Keep a finished sequence and take ownership of ``kv``; ``tokens`` belong to its ``kv.length`` positions."""
        new = np.asarray(tokens, dtype=np.int64)
        if not 0 < len(new) <= self._max_tokens:
            return
        lengths = [common(entry.tokens, new) for entry in self._entries]
        if len(new) in lengths:
            return
        self._entries = [
            entry for entry, shared in zip(self._entries, lengths, strict=True) if shared < len(entry.tokens)
        ]
        self._entries.append(_Entry(new, kv))
        excess = sum(len(entry.tokens) for entry in self._entries) - self._max_tokens
        while excess > 0:
            excess -= len(self._entries.pop(0).tokens)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
