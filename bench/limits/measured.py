"""Compare measured cells with the roofline. A cell above it is a measurement error."""

import math

from bench.limits.roofline import KV_BITS, Limit, limit, multiplied_in, weight_bytes
from bench.records.record import RunRecord, ServerFacts, SpeedCell, TaskScore
from bench.speed.figures import MeasuredCell
from quantize.checkpoint import CheckpointError, Manifest
from quantize.key import Frozen

TOLERANCE = 0.02
"""How much faster than the limit a figure may be before it counts as an error. Chosen: clocks and datasheets are not
exact, and a cache hit or a miscount is off by far more."""


class Share(Frozen):
    """Measured figures as shares of their limit, from 0 to 1. None where the figure is not defined."""

    mbu: float | None
    """Model bandwidth utilisation of decoding: bytes of a step / TPOT / bandwidth."""
    mfu: float | None
    """Model FLOPs utilisation of prefill: multiplications / TTFT / peak."""
    decode: float | None
    """Decode speed / its roof: the MBU where memory is the limit."""
    prefill: float | None
    """Least TTFT / TTFT: the MFU where arithmetic is the limit."""


def _served(record: RunRecord, cell: SpeedCell) -> tuple[Manifest, ServerFacts] | None:
    """Return the manifest and the facts of the server that a cell was measured on, if a limit follows from them."""
    control = record.control_of(cell)
    checkpoint = control.checkpoint if control else record.checkpoint
    server = control.server if control else record.server
    if checkpoint is None or server is None or server.kv_cache_dtype not in KV_BITS:
        return None
    return checkpoint, server


def computed_in(record: RunRecord, result: SpeedCell | TaskScore) -> str:
    """Return the type in which a server multiplied the linear layers of decoder layers, e.g. ``fp8`` or ``bf16``.

    Layers that are not quantized, and those that are expanded first (an emulated result), are multiplied in 16 bits; in
    ``fp32`` where the server was configured to, or where the machine has no BF16 instructions.

    Args:
        record: a run.
        result: one of its cells or scores, or a cell of the baseline served with it.

    Raises:
        CheckpointError: the checkpoint's quantization is of an unsupported kind.
    """
    control = record.control_of(result) if isinstance(result, SpeedCell) else None
    manifest = control.checkpoint if control else record.checkpoint
    if manifest and manifest.quantization_config is not None and result.status != "emulated":
        return multiplied_in(manifest.quantization_config)
    info = control.engine_info if control else record.engine_info
    return "fp32" if "float32" in (record.spec.engine.dtype, info.dtype) else multiplied_in(None)


def limit_of(record: RunRecord, measured: MeasuredCell) -> Limit | None:
    """Return the physical limit of a measured cell of a record, or of its control.

    An emulated cell has none, because it moves expanded weights. In an open loop the number of requests that decode
    together is unknown, so the limit is that of a single request. None where the device, architecture, checkpoint,
    number of devices or type of keys and values is unknown.
    """
    cell = measured.cell
    architecture = record.spec.model.architecture
    served = _served(record, cell)
    if record.device is None or architecture is None or served is None:
        return None
    manifest, server = served
    try:
        kind = computed_in(record, cell)
    except CheckpointError:
        return None
    closed = cell.request_rate_per_s is None
    wide = kind == "fp32"
    return limit(
        architecture,
        weight_bytes(architecture, manifest.bits_per_quantized_weight, plain_bits=32 if wide else 16),
        record.device,
        input_len=cell.input_len,
        output_len=cell.output_len,
        concurrency=math.ceil(cell.concurrency / server.replicas) if closed else 1,
        sent_together=closed and cell.n_requests == cell.concurrency,
        devices=server.devices,
        kv_cache_dtype="float32" if wide else server.kv_cache_dtype,
        multiplied_in=kind,
    )


def against(limit: Limit, cell: MeasuredCell) -> Share:
    """Return a cell's medians as shares of its limit."""

    def share(least_s: float, measured_s: float | None) -> float | None:
        return None if measured_s is None else least_s / measured_s

    summary = cell.summary
    tpot_s = summary.tpot_s.median if summary.tpot_s else None
    ttft_s = summary.ttft_s.median if summary.ttft_s else None
    return Share(
        mbu=share(limit.decode.memory_s, tpot_s),
        mfu=share(limit.prefill.compute_s, ttft_s),
        decode=share(limit.decode.time_s, tpot_s),
        prefill=share(limit.prefill.time_s, ttft_s),
    )


def exceeds(limit: Limit, cell: MeasuredCell) -> str | None:
    """Return a sentence that says that a cell is faster than its device allows; None if it is not.

    Its medians are compared with the least possible times, with ``TOLERANCE`` for clocks and datasheets.
    """
    summary = cell.summary
    for what, figure, measured, least in (
        ("decode", "TPOT", summary.tpot_s, limit.least_decode),
        ("prefill", "TTFT", summary.ttft_s, limit.least_prefill),
    ):
        if measured is not None and measured.median * (1 + TOLERANCE) < least.time_s:
            share = 100 * least.time_s / measured.median
            work = "moved" if least.by == "memory" else "multiplied"
            part = "memory" if least.by == "memory" else "arithmetic"
            return (
                f"{what} {work} {share:.0f} % of what the {part} of {limit.device.name} can "
                f"({figure} {measured.median:.3g} s, at least {least.time_s:.3g} s): "
                "a cache hit, a miscount, or more than one token a step"
            )
    return None


def columns(record: RunRecord, cell: MeasuredCell) -> dict[str, float | str | None]:
    """Return the export table's columns for a cell; each is None where it is unknown."""
    names = ("roof_tokens_per_s", "mbu", "roof_ttft_s", "mfu", "bound_by", "bound_by_prefill")
    roof = limit_of(record, cell)
    if roof is None:
        return dict.fromkeys(names)
    share = against(roof, cell)
    values = (
        roof.roof_tokens_per_s,
        share.mbu,
        roof.roof_ttft_s,
        share.mfu,
        roof.decode.by,
        roof.prefill.by,
    )
    return dict(zip(names, values, strict=True))
