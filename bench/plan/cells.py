"""Forecast of one speed cell: its limit, its likely speed, and its duration."""

import math

from bench.analysis.estimate import Estimate
from bench.config.spec import RunSpec
from bench.limits.roofline import Bound, Limit, kv_bytes_per_token, limit, weight_bytes
from bench.plan.placement import Fit, ServedWeights, tokens_at_once
from bench.plan.stages import context_of
from bench.published.law import law_for
from bench.records.record import Device
from bench.speed.shapes import Shape
from quantize.key import Frozen

LAW_OF = {"fp8": "fp8-block", "fp8-static": "fp8-block", "gptq-int4": "awq-int4", "awq-int4-sym": "awq-int4"}
"""Quantizations without their own law: {quantization: one that reads as many bytes with similar kernels}."""
STRETCHED = ("131k", 131072)
"""The extended context to suggest: its name and its tokens."""


class CellForecast(Frozen):
    """The forecast of one speed cell."""

    shape: Shape
    kv_bytes: float
    """KV cache of all its requests at full length, all devices together."""
    decode: Bound | None
    """One decode step at the limit; None if unknown, or if the cell cannot run."""
    prefill: Bound | None
    likely_tpot_s: Estimate | None
    best_s: float | None
    """Duration of all trials at the limit, with warm-up."""
    likely_s: Estimate | None
    """Duration with the likely TPOT and prefill at its limit."""
    reason: str | None
    """Why the cell cannot run."""


def _reason(spec: RunSpec, shape: Shape, fit: Fit | None) -> str | None:
    length, tokens = context_of(spec), shape.input_len + shape.output_len
    if tokens > length:
        name, longest = STRETCHED
        more = f"; type context={name}" if length < tokens <= longest and spec.model.rope else ""
        return f"{tokens:,} tokens are more than the context of {length:,}{more}"
    if fit is None:
        return None
    if fit.refused:
        return fit.refused
    needed, capacity = tokens_at_once(shape, fit.copies), fit.spread.kv_capacity_tokens
    if capacity == 0:
        return "the weights do not fit"
    if needed <= capacity:
        return None
    return f"{needed:,} tokens at once, but only {capacity:,} fit next to the weights"


def _limits(spec: RunSpec, shape: Shape, model: ServedWeights, device: Device, fit: Fit) -> tuple[Limit, Limit]:
    """Return (the limit of decoding, the limit of prefilling).

    A token passes the pipeline's stages one after the other, so more stages do not make decoding faster; the chunks of
    a long prompt can be in all stages at once.
    """
    closed = shape.request_rate_per_s is None
    architecture, spread = spec.model.architecture, fit.spread

    def on(devices: int) -> Limit:
        return limit(
            architecture,
            weight_bytes(architecture, model.bits),
            device,
            input_len=shape.input_len,
            output_len=shape.output_len,
            concurrency=math.ceil(shape.concurrency / fit.copies) if closed else 1,
            sent_together=closed and shape.n_requests == shape.concurrency,
            devices=devices,
            kv_cache_dtype=model.kv_cache_dtype,
            multiplied_in=model.multiplied_in,
        )

    return on(spread.tp), on(spread.devices)


def _likely(spec: RunSpec, shape: Shape, model: ServedWeights, fit: Fit, step: Limit) -> Estimate | None:
    """Return the likely TPOT by the law of published cells, for dense models, one request and one device."""
    alone = shape.request_rate_per_s is None and shape.concurrency == fit.devices == 1
    if not alone or step.device.measured or spec.model.architecture.experts:
        return None
    name = "bf16" if model.emulated else spec.quant.name
    law = law_for(LAW_OF.get(name, name), spec.engine.name, spec.engine.published_source)
    if law is None:
        return None
    return law.predict(step.traffic.total_bytes, bandwidth_bytes_per_s=step.bandwidth_bytes_per_s)


def cell_of(spec: RunSpec, shape: Shape, model: ServedWeights, device: Device | None, fit: Fit | None) -> CellForecast:
    """Return the forecast of one cell.

    Args:
        spec: the run.
        shape: of the cell.
        model: how the server stores the weights.
        device: one of the devices; None if unknown.
        fit: how the model is sharded over them; None if they are unknown.
    """
    per_token = kv_bytes_per_token(spec.model.architecture, model.kv_cache_dtype)
    kv_bytes, reason = tokens_at_once(shape) * per_token, _reason(spec, shape, fit)
    if reason is not None or device is None or fit is None:
        return CellForecast(
            shape=shape,
            kv_bytes=kv_bytes,
            decode=None,
            prefill=None,
            likely_tpot_s=None,
            best_s=None,
            likely_s=None,
            reason=reason,
        )
    decode, prefill = _limits(spec, shape, model, device, fit)
    likely = _likely(spec, shape, model, fit, decode)
    waves = spec.workload.trials + 1

    def all_trials(tpot_s: float) -> float:
        if shape.request_rate_per_s is not None:
            return waves * shape.n_requests / shape.request_rate_per_s
        rounds = math.ceil(shape.n_requests / shape.concurrency)
        return waves * rounds * (prefill.roof_ttft_s + (shape.output_len - 1) * tpot_s)

    return CellForecast(
        shape=shape,
        kv_bytes=kv_bytes,
        decode=decode.decode,
        prefill=prefill.prefill,
        likely_tpot_s=likely,
        best_s=all_trials(decode.roof_tpot_s),
        likely_s=likely
        and Estimate(low=all_trials(likely.low), value=all_trials(likely.value), high=all_trials(likely.high)),
        reason=None,
    )
