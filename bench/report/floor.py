"""The minimum time for a task's prompts: their multiplications at the device's peak, and nothing else."""

from bench.limits.measured import computed_in
from bench.limits.roofline import linear_flops, peak
from bench.records.record import RunRecord, TaskScore
from quantize.checkpoint import CheckpointError


def floor_s(record: RunRecord, score: TaskScore) -> float | None:
    """Return the minimum time in seconds to compute a task's prompts, every shared prefix once.

    (2 x weights of the linear layers x unique prompt tokens + their attention to all tokens before them) / the peak of
    all devices. Unique tokens are taken to be at the end of a prompt of mean length. The output head is left out.

    None if the bound means nothing: answers are generated, which is limited by memory; some answers were reused; or the
    device, the model's shapes, the server or the length of the prompts is unknown.
    """
    work, server, device = score.work, record.server, record.device
    architecture = record.spec.model.architecture
    lengths = [item.prompt_tokens for item in score.items if item.logprobs and item.prompt_tokens]
    if work is None or server is None or device is None or architecture is None or work.resumed:
        return None
    if not lengths or len(lengths) < len(score.items):
        return None
    try:
        kind = computed_in(record, score)
    except CheckpointError:
        return None
    length = sum(lengths) / len(lengths)
    seen = length * (1 - work.unique_tokens / work.prompt_tokens / 2)
    attention = 4.0 * architecture.layers * architecture.heads * architecture.head_dim * seen
    per_token_s = linear_flops(architecture) / peak(device, kind) + attention / peak(device, "bf16")
    return work.unique_tokens * per_token_s / (server.devices * server.replicas)
