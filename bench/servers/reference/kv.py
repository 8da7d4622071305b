"""Keys and values of sequences: one growing buffer per sequence and layer, never padded, never merged.

Sequences join and leave a batch without copying anything, and a finished sequence's buffer becomes a prefix-cache
entry unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

MIN_GROWTH = 256
"""Fewest slots by which a full buffer grows; long ones grow by a quarter, so that appending stays linear."""


class SequenceKV:
    """Keys and values of one sequence in all layers. Not shared between running sequences."""

    def __init__(self, reserve: int) -> None:
        """Start empty.

        Args:
            reserve: positions to allocate at first use.
        """
        self.length = 0
        """Positions whose keys and values are complete in every layer."""
        self._reserve = reserve
        self._buffers: list[torch.Tensor] = []
        """One per layer: (keys and values, kv_heads, capacity, head_dim)."""

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor, store: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next positions of one layer and return views of everything so far.

        ``length`` changes only in :meth:`advance`, so a forward pass that fails half-way leaves the sequence unchanged.

        Args:
            layer: index; layers come in order the first time.
            keys: (kv_heads, new, head_dim).
            values: as ``keys``.
            store: dtype of the buffer; FP8 saturates, with a scale of 1 as SGLang's default.

        Returns:
            Keys and values in the dtype of ``keys``, each (1, kv_heads, length + new, head_dim); not copied where the
            buffer has that dtype.
        """
        end = self.length + keys.shape[1]
        if layer == len(self._buffers):
            self._buffers.append(_allocate(keys, max(end, self._reserve), store))
        elif self._buffers[layer].shape[2] < end:
            room = self._reserve if end <= self._reserve else end + max(MIN_GROWTH, end // 4)
            self._buffers[layer] = self._copy(layer, room)
        buffer = self._buffers[layer]
        limit = torch.finfo(store).max
        for kept, new in zip(buffer, (keys, values), strict=True):
            kept[:, self.length : end] = new if store == new.dtype else new.clamp(-limit, limit).to(store)
        return buffer[:1, :, :end].to(keys.dtype), buffer[1:, :, :end].to(keys.dtype)

    def advance(self, new: int) -> None:
        """Count ``new`` positions as complete in every layer."""
        self.length += new

    def prefix(self, length: int, reserve: int) -> Self:
        """Return the first ``length`` positions as a sequence with room for ``reserve`` positions.

        Each layer is copied on the first append, so in the pass that computes it.
        """
        begun = type(self)(reserve)
        begun.length = length
        begun._buffers = [buffer[:, :, :length] for buffer in self._buffers]
        return begun

    def allocated_bytes(self) -> int:
        """Return the memory of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def _copy(self, layer: int, capacity: int) -> torch.Tensor:
        buffer = self._buffers[layer]
        copy = _allocate(buffer[0], capacity, buffer.dtype)
        copy[:, :, : self.length] = buffer[:, :, : self.length]
        return copy


def _allocate(like: torch.Tensor, capacity: int, dtype: torch.dtype) -> torch.Tensor:
    """Return an empty buffer for tensors shaped like ``like``, (kv_heads, positions, head_dim)."""
    return like.new_empty((2, like.shape[0], capacity, like.shape[2]), dtype=dtype)


@dataclass(frozen=True)
class Rows:
    """Keys or values of several sequences in one layer, as :mod:`bench.servers.reference.attention` takes them."""

    new: Sequence[int]
    """Number of new positions at the end of each sequence."""
    views: tuple[torch.Tensor, ...]
    """All positions so far of each sequence: (1, kv_heads, positions, head_dim)."""
    masks: dict[tuple[int, int], torch.Tensor]
    """Masks that the layers of a pass share; see :func:`bench.servers.reference.attention.causal`."""


class RaggedCache:
    """The cache that a transformers model sees in one forward pass over the new tokens of several sequences.

    The model sees one row with the new tokens of all sequences concatenated. It calls only :meth:`update`, whose result
    goes directly to :mod:`bench.servers.reference.attention`.
    """

    def __init__(self, sequences: Sequence[SequenceKV], new: Sequence[int], store: torch.dtype) -> None:
        self._sequences = sequences
        self._new = list(new)
        self._store = store
        self._masks: dict[tuple[int, int], torch.Tensor] = {}

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[Rows, Rows]:
        """Append one layer's new positions, (1, kv_heads, new positions of all, head_dim); return them by sequence."""
        pieces = zip(self._sequences, keys[0].split(self._new, dim=1), values[0].split(self._new, dim=1), strict=True)
        views = [sequence.append(layer, key, value, self._store) for sequence, key, value in pieces]
        keys_so_far, values_so_far = zip(*views, strict=True)
        return Rows(self._new, keys_so_far, self._masks), Rows(self._new, values_so_far, self._masks)
