"""What one speed cell can reach at best, what is likely, and how long it takes."""

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
"""Quantizations without a law of their own, and the one that reads as many bytes by like kernels."""
STRETCHED = ("131k", 131072)
"""A context that may be asked for, and its tokens."""


class CellForecast(Frozen):
    """One speed cell."""

    shape: Shape
    kv_bytes: float
    """Keys and values of all its requests at their longest, all devices together."""
    decode: Bound | None
    """One decode step at the limit; None where nothing is known, or the cell cannot run."""
    prefill: Bound | None
    likely_tpot_s: Estimate | None
    best_s: float | None
    """Time of all trials at the limit, warm-up included."""
    likely_s: Estimate | None
    """The same with the likely time of a token; prompts at their limit."""
    reason: str | None
    """Why it cannot run."""


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
    held, room = tokens_at_once(shape, fit.copies), fit.spread.kv_capacity_tokens
    if room == 0:
        return "the weights do not fit"
    return f"{held:,} tokens at once, and {room:,} find room beside the weights" if held > room else None


def _limits(spec: RunSpec, shape: Shape, model: ServedWeights, device: Device, fit: Fit) -> tuple[Limit, Limit]:
    """Return (the limit of decoding, the limit of prefilling).

    A token passes the groups of layers one after the other, so it takes no less time for their number; the pieces of
    a long prompt can be in all of them at once.
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
    """Return the likely time of a token by the law of published cells: dense models, one request, one device."""
    alone = shape.request_rate_per_s is None and shape.concurrency == fit.devices == 1
    if not alone or step.device.measured or spec.model.architecture.experts:
        return None
    name = "bf16" if model.emulated else spec.quant.name
    law = law_for(LAW_OF.get(name, name), spec.engine.name, spec.engine.published_source)
    if law is None:
        return None
    return law.predict(step.traffic.total_bytes, bandwidth_bytes_per_s=step.bandwidth_bytes_per_s)


def cell_of(spec: RunSpec, shape: Shape, model: ServedWeights, device: Device | None, fit: Fit | None) -> CellForecast:
    """Return what is known of one cell beforehand.

    Args:
        spec: the run.
        shape: of the cell.
        model: how its server holds the weights.
        device: one of the devices; None if it is not known.
        fit: how it is spread over them; None if they are not known.
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
