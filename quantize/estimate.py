"""Memory and disk that building a checkpoint will need, from shapes and settings alone. All figures are bytes."""

from quantize.architecture import ATTENTION, MLP, Architecture
from quantize.key import Frozen

BASE = 1_500_000_000
"""Interpreter, torch and the quantization library themselves (llm-compressor, measured on Linux: 1.1 GB)."""
SHARD = 5_000_000_000
"""Largest shard that transformers writes by default."""
SHARD_FACTOR = 2.5
"""llm-compressor's own estimate for a shard worked on, in sizes of the shard."""
WHOLE_MODEL = {"auto-gptq": 6, "autoawq": 6, "gptqmodel": 4}
"""Bytes per weight of backends that hold the whole model: in float32 or 16 bits, and a copy in 16 when it is saved."""
BATCH_TOKENS = 2048
"""Tokens whose logits the proof holds at once, at least."""


class Needs(Frozen):
    """What a build needs at its peak."""

    memory_bytes: int
    disk_bytes: int
    why: str
    """What the memory is for, in words."""


class Calibration(Frozen):
    """What calibrating a method takes."""

    tokens: int
    """Of all its samples."""
    backend: str
    working_bytes: int
    """For one decoder layer, besides weights and hidden states."""


def checkpoint_bytes(architecture: Architecture, bits: int | None) -> int:
    """Return the size of a checkpoint whose linear layers are stored in ``bits``; None for 16."""
    linear = architecture.linear_parameters()
    rest = architecture.parameters() - linear
    # Scales and zero points: 16 and 4 bits for each group of 32 columns.
    return int(2 * rest + linear * (2.0 if bits is None else (bits + 20 / 32) / 8))


def _layer_bytes(architecture: Architecture) -> int:
    return 2 * architecture.layer_parameters()


def hessian_bytes(architecture: Architecture) -> int:
    """Return the bytes of the Hessians of one decoder layer, columns x columns in float32 for each linear layer."""
    shapes = architecture.linear_shapes()
    attention = sum(shapes[name][1] ** 2 for name in ATTENTION)
    mlp = sum(shapes[name][1] ** 2 for name in MLP)
    return 4 * (attention + mlp * max(1, architecture.experts))


def proof_memory(architecture: Architecture, heldout: tuple[int, int]) -> int:
    """Return the memory that the proof takes on the device that computes it.

    It holds the ends and one decoder layer of both checkpoints, and hidden states.
    """
    windows, length = heldout
    ends = 2 * 2 * architecture.vocab_size * architecture.hidden_size * (1 if architecture.tied_embeddings else 2)
    # One expert or projection at a time is expanded in float32 before it is kept in 16 bits.
    layers = 2 * _layer_bytes(architecture) + 4 * max(r * c for r, c in architecture.linear_shapes().values())
    states = 2 * 2 * windows * length * architecture.hidden_size
    logits = 4 * 4 * max(BATCH_TOKENS, length) * architecture.vocab_size
    return BASE + ends + layers + states + logits


def estimate(
    architecture: Architecture,
    calibration: Calibration | None,
    *,
    heldout: tuple[int, int],
    bits: int | None,
    shard: int = SHARD,
) -> Needs:
    """Return what making and proving a checkpoint needs.

    Args:
        architecture: the model's shapes.
        calibration: what calibrating takes; None for a method or a release that needs no text.
        heldout: windows that fidelity is measured on, and tokens in each.
        bits: bits of its quantized weights; None if nothing is quantized.
        shard: bytes of the source's largest shard, where that is known.
    """
    disk = checkpoint_bytes(architecture, bits)
    if bits is None:
        return Needs(memory_bytes=BASE // 5, disk_bytes=0, why="linking files")
    proof = proof_memory(architecture, heldout)
    if calibration is None:
        whole = checkpoint_bytes(architecture, None)
        making, why = BASE + int(SHARD_FACTOR * min(shard, whole)), "one shard at a time"
    else:
        tokens = calibration.tokens
        layers = 3 * _layer_bytes(architecture)
        why = f"one decoder layer at a time, {tokens:,} calibration tokens"
        if calibration.backend in WHOLE_MODEL:
            layers = WHOLE_MODEL[calibration.backend] * architecture.parameters()
            why = f"the whole model, which {calibration.backend} holds, {tokens:,} calibration tokens"
        making = BASE + layers + 2 * 2 * tokens * architecture.hidden_size + calibration.working_bytes
    if proof > making:
        return Needs(
            memory_bytes=proof, disk_bytes=disk, why="the proof beside the source, one decoder layer at a time"
        )
    return Needs(memory_bytes=making, disk_bytes=disk, why=why)
