"""Estimate the memory and disk space for building a checkpoint from shapes and settings. All figures are in bytes."""

from quantize.architecture import ATTENTION, MLP, Architecture
from quantize.key import Frozen

BASE = 1_500_000_000
"""Memory of the interpreter, torch and the quantization library (llm-compressor, measured on Linux: 1.1 GB)."""
SHARD = 5_000_000_000
"""Largest shard that transformers writes by default."""
SHARD_FACTOR = 2.5
"""llm-compressor's own estimate of the memory for processing a shard, as a multiple of the shard's size."""
WHOLE_MODEL = {"auto-gptq": 6, "autoawq": 6, "gptqmodel": 4}
"""Bytes per weight in backends that hold the complete model: float32 or 16 bits, plus a 16-bit copy for saving."""
BATCH_TOKENS = 2048
"""Fewest tokens whose logits the proof holds at once."""
PROBE = (8, 128)
"""Windows that the proof measures single layers on, spread over the text, and positions of each; for the choice see
docs/decisions/0028."""


class Needs(Frozen):
    """Peak memory and disk space of a build."""

    memory_bytes: int
    disk_bytes: int
    why: str
    """What the memory is for, in words."""


class Calibration(Frozen):
    """Resources of a method's calibration."""

    tokens: int
    """Tokens of all samples."""
    backend: str
    working_bytes: int
    """Memory for one decoder layer in addition to weights and hidden states."""


def checkpoint_bytes(architecture: Architecture, bits: int | None) -> int:
    """Return the size of a checkpoint whose linear layers are stored in ``bits``; None means 16."""
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
    """Return the memory of the proof on its device.

    It holds embeddings, output layer and one decoder layer of both checkpoints, and hidden states.
    """
    windows, length = heldout
    ends = 2 * 2 * architecture.vocab_size * architecture.hidden_size * (1 if architecture.tied_embeddings else 2)
    # One expert or projection at a time is expanded in float32 before it is stored in 16 bits.
    layers = 2 * _layer_bytes(architecture) + 4 * max(r * c for r, c in architecture.linear_shapes().values())
    # Single layers are put back into the checkpoint one at a time, and the states behind each of them are kept.
    probed = min(windows, PROBE[0]) * min(length, PROBE[1]) * (architecture.layers + 2)
    states = 2 * (2 * windows * length + probed) * architecture.hidden_size
    logits = 4 * 4 * max(BATCH_TOKENS, length) * architecture.vocab_size
    return BASE + ends + layers + states + logits


def estimate(
    architecture: Architecture,
    calibration: Calibration | None,
    *,
    heldout: tuple[int, int],
    bits: int | None,
    shard: int | None = None,
) -> Needs:
    """Return the memory and disk space for building and proving a checkpoint.

    Args:
        architecture: the model's shapes.
        calibration: resources of the calibration; None for a method or a release that needs no text.
        heldout: number of windows that fidelity is measured on, and tokens in each.
        bits: bits of the quantized weights; None if nothing is quantized.
        shard: bytes of the source's largest shard; None if unknown.
    """
    disk = checkpoint_bytes(architecture, bits)
    if bits is None:
        return Needs(memory_bytes=BASE // 5, disk_bytes=0, why="linking files")
    proof = proof_memory(architecture, heldout)
    if calibration is None:
        model = checkpoint_bytes(architecture, None)
        build, why = BASE + int(SHARD_FACTOR * min(shard or SHARD, model)), "one shard at a time"
    else:
        tokens = calibration.tokens
        layers = 3 * _layer_bytes(architecture)
        why = f"one decoder layer at a time, {tokens:,} calibration tokens"
        if calibration.backend in WHOLE_MODEL:
            layers = WHOLE_MODEL[calibration.backend] * architecture.parameters()
            why = f"the complete model, which {calibration.backend} holds, {tokens:,} calibration tokens"
        build = BASE + layers + 2 * 2 * tokens * architecture.hidden_size + calibration.working_bytes
    if proof > build:
        return Needs(
            memory_bytes=proof, disk_bytes=disk, why="the proof against the source, one decoder layer at a time"
        )
    return Needs(memory_bytes=build, disk_bytes=disk, why=why)
