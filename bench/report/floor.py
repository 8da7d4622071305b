"""The least time that a task's prompts can take: their multiplications at the device's peak, and nothing else."""

from bench.limits.roofline import multiplied_in, peak
from bench.records.record import RunRecord, TaskScore
from quantize.architecture import Architecture
from quantize.checkpoint import CheckpointError

MLP = ("gate_proj", "up_proj", "down_proj")


def flops_per_token(architecture: Architecture) -> float:
    """Return the multiplications and additions of one token in the linear layers of all decoder layers."""
    times = architecture.experts_per_token if architecture.experts else 1
    shapes = architecture.linear_shapes().items()
    weights = sum(rows * columns * (times if name in MLP else 1) for name, (rows, columns) in shapes)
    return 2.0 * architecture.layers * weights


def _kind(record: RunRecord, score: TaskScore) -> str:
    """Return the type that the quantized layers were multiplied in.

    Raises:
        CheckpointError: the checkpoint's quantization is of a kind that is not read.
    """
    config = record.checkpoint.quantization_config if record.checkpoint else None
    told = record.spec.engine.dtype
    if config is not None and score.status != "emulated":
        return multiplied_in(config)
    return "fp32" if "float32" in (told, record.engine_info.dtype) else "bf16"


def floor_s(record: RunRecord, score: TaskScore) -> float | None:
    """Return the least seconds in which the server can read a task's prompts, every common beginning once.

    2 x weights of the linear layers x unique prompt tokens, and their attention to all before them, over the peak of
    all devices. A unique token stands at the end of a prompt of mean length. The output head is left out.

    None where it says nothing: answers are generated, which memory limits; some answers were there already; or the
    device, the model's shapes, the server or the length of the prompts is not known.
    """
    work, server, device = score.work, record.server, record.device
    architecture = record.spec.model.architecture
    lengths = [item.prompt_tokens for item in score.items if item.logprobs and item.prompt_tokens]
    if work is None or server is None or device is None or architecture is None or work.resumed:
        return None
    if not lengths or len(lengths) < len(score.items):
        return None
    try:
        kind = _kind(record, score)
    except CheckpointError:
        return None
    length = sum(lengths) / len(lengths)
    seen = length * (1 - work.unique_tokens / work.prompt_tokens / 2)
    attention = 4.0 * architecture.layers * architecture.heads * architecture.head_dim * seen
    per_token_s = flops_per_token(architecture) / peak(device, kind) + attention / peak(device, "bf16")
    return work.unique_tokens * per_token_s / (server.devices * server.replicas)
