"""Attention over sequences of different lengths without padding, in memory that does not grow quadratically.

transformers builds masks of (queries x all positions) and repeats grouped keys in memory; at 131,072 positions that
takes most of the machine's memory. Here each sequence of a batch attends to its own keys, masks exist for one block of
queries at a time, and a single query needs none. With this attention (:data:`NAME`) transformers builds no masks.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from bench.servers.reference.kv import Rows

NAME = "quantbench"
SCORES_PER_BLOCK = 2**25
"""Most attention scores (heads x queries x keys) of one masked block: 128 MiB in float32."""
Shape = tuple[int, int]
"""(queries, positions)."""
UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")


def register() -> None:
    """Register this attention with transformers as :data:`NAME`."""
    AttentionInterface.register(NAME, _attend)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: Rows,
    values: Rows,
    attention_mask: None,
    *,
    scaling: float,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend each sequence's new positions to that sequence alone; transformers' interface.

    Args:
        module: the calling layer.
        query: (1, heads, new positions of all sequences, head_dim).
        keys: keys of each sequence, including the new positions.
        values: as ``keys``.
        attention_mask: always None, because transformers builds no mask for this attention.
        scaling: factor on the scores.
        options: the layer's other arguments; only those without effect on causal attention are accepted.

    Returns:
        (1, new positions of all sequences, heads, head_dim), and None for the weights.

    Raises:
        NotImplementedError: the model needs something other than plain causal attention.
    """
    needed = [name for name in UNSUPPORTED if options.get(name) is not None]
    if needed:
        raise NotImplementedError(f"this model's attention uses {', '.join(needed)}, which engine=transformers lacks")
    pieces = zip(query.split(keys.new, dim=2), keys.views, values.views, strict=True)
    outputs = [causal(piece, key, value, scaling, keys.masks) for piece, key, value in pieces]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, masks: dict[Shape, torch.Tensor]
) -> torch.Tensor:
    """Return causal attention of the last positions of one sequence over all of it.

    Args:
        query: (1, heads, queries, head_dim).
        key: (1, kv_heads, positions, head_dim); ``heads`` is a multiple of ``kv_heads``.
        value: as ``key``.
        scaling: factor on the scores.
        masks: reused from earlier layers of the same pass; new masks are added.

    Returns:
        (1, heads, queries, head_dim).
    """
    heads, queries = query.shape[1:3]
    positions = key.shape[2]
    grouped = heads != key.shape[1]
    if queries in (1, positions):
        return scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=queries > 1, enable_gqa=grouped)
    past = positions - queries
    rows = max(1, SCORES_PER_BLOCK // (heads * positions))
    if rows >= queries:
        # Treats the heads of a group as additional queries, so that their keys are read once and not copied.
        groups = heads // key.shape[1]
        shape = (queries, positions)
        if shape not in masks:
            mask = query.new_full(shape, float("-inf")).triu_(past + 1)
            masks[shape] = mask.repeat(groups, 1)
        folded = query.reshape(1, key.shape[1], groups * queries, -1)
        return scaled_dot_product_attention(folded, key, value, masks[shape], scale=scaling).view(query.shape)
    # One buffer of the same size in every call: masks that grow with the sequence fragment the heap by gigabytes.
    buffer = query.new_empty(max(positions, SCORES_PER_BLOCK // heads))
    blocks = []
    for begin in range(0, queries, rows):
        block = query[:, :, begin : begin + rows]
        n = block.shape[2]
        mask = buffer[: n * positions].view(n, positions).fill_(float("-inf")).triu_(past + begin + 1)
        blocks.append(scaled_dot_product_attention(block, key, value, mask, scale=scaling, enable_gqa=grouped))
    return torch.cat(blocks, dim=2)
