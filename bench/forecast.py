"""What a run will take, from its spec and a device's figures alone: size, devices, roof, time. Nothing is asked or run.

*At best* is what the physical limit allows (:mod:`bench.roofline`); *likely* comes from a law fitted to published cells
(:mod:`bench.analysis.law`) where there is one for the quantization and engine, with its 95 % interval.
"""

import math
from typing import Any

from bench.accuracy.data import benchmarks
from bench.analysis.law import Estimate, law_for
from bench.plan import context_of, shapes_of
from bench.record import Device
from bench.roofline import KV_BITS, Limit, active_parameters, bits_per_weight, limit, weight_bytes
from bench.spec import PartSpec, RunSpec, plugin
from bench.speed.shapes import Shape
from bench.spread import Spread, fewest, refusal, spread
from quantize.estimate import Needs, estimate
from quantize.formats import Format
from quantize.key import Frozen

MMLU_TOKENS = 98
"""Prompt tokens of a five-shot MMLU item that no other item shares (SmolLM2's tokenizer, docs/accuracy.md)."""
LAW_OF = {"fp8": "fp8-block", "fp8-static": "fp8-block", "gptq-int4": "awq-int4", "awq-int4-sym": "awq-int4"}
"""Quantizations without a law of their own, and the one that reads as many bytes by like kernels."""
SIZES = ("tp_size", "tensor_parallel_size")
PIPELINES = ("pp_size", "pipeline_parallel_size")


class CellForecast(Frozen):
    """One speed cell."""

    shape: Shape
    limit: Limit | None
    likely_tpot_s: Estimate | None
    best_s: float | None
    """Time of all trials at the limit, warm-up included."""
    likely_s: float | None
    reason: str | None
    """Why it cannot run."""


class TaskForecast(Frozen):
    """One accuracy task."""

    task: str
    items: int | None
    best_s: float | None
    """Least time of its prompts; None where their length is not known."""


class Forecast(Frozen):
    """One run."""

    model: str
    quant: str
    engine: str
    device: Device | None
    total_parameters: int
    active_parameters: int
    bits: float | None
    """Of a quantized weight, scales included; None if nothing is quantized."""
    checkpoint_bytes: float
    download_bytes: float | None
    """From the hub; None where nothing is."""
    build: Needs | None
    """What quantizing needs; None where nothing is made here."""
    calibration: str | None
    spread: Spread | None
    """The fewest devices, or those that were asked for."""
    asked: bool
    """Whether the engine's own fields say how it is spread."""
    cells: tuple[CellForecast, ...]
    tasks: tuple[TaskForecast, ...]
    remarks: tuple[str, ...]

    @property
    def best_s(self) -> float | None:
        """Least time of everything that is served; None where nothing of it is known."""
        times = [*(cell.best_s for cell in self.cells), *(task.best_s for task in self.tasks)]
        known = [time for time in times if time is not None]
        return sum(known) if known else None

    @property
    def likely_s(self) -> float | None:
        """Likely time of the speed cells; None unless it is known for all that can run."""
        able = [cell for cell in self.cells if cell.reason is None]
        known = [cell.likely_s for cell in able if cell.likely_s is not None]
        return sum(known) if known and len(known) == len(able) else None


def _format(quant: PartSpec, spec: RunSpec) -> Format | None:
    method = plugin("quantize.methods", quant.module)
    form: Format | None = method.expected(method.Config.model_validate(quant.config), spec.model.architecture).format
    return form


def _multiplied_in(form: Format | None) -> str:
    inputs = form.activations if form else None
    return "bf16" if inputs is None else f"{'fp' if inputs.type == 'float' else 'int'}{inputs.num_bits}"


def _field(spec: RunSpec, names: tuple[str, ...]) -> int:
    return next((int(spec.engine.config[name]) for name in names if name in spec.engine.config), 1)


def _budget(spec: RunSpec, device: Device) -> float:
    """Return the bytes of one device that a server may plan with."""
    engine = plugin("bench.engines", spec.engine.module)
    config = engine.Config.model_validate(spec.engine.config)
    share = engine.room(config)[1] if hasattr(engine, "room") else 0.9
    return float(device.memory_bytes * share)


def kv_tokens_of(spec: RunSpec) -> int:
    """Return the tokens whose keys and values the largest cell holds at once; at least one whole context."""
    length = context_of(spec)
    able = [shape for shape in shapes_of(spec.workload) if shape.input_len + shape.output_len <= length]
    closed = [(shape.input_len + shape.output_len) * shape.concurrency for shape in able if shape.request_rate is None]
    opened = [shape.input_len + shape.output_len for shape in able if shape.request_rate is not None]
    return max([*closed, *opened], default=min(length, 4096))


def _spread(
    spec: RunSpec, form: Format | None, device: Device, checkpoint_bytes: float, remarks: list[str]
) -> tuple[Spread | None, bool]:
    architecture = spec.model.architecture
    tp, pp = _field(spec, SIZES), _field(spec, PIPELINES)
    kv_dtype = str(spec.engine.config.get("kv_cache_dtype", "auto"))
    sizes: dict[str, Any] = {
        "weights_bytes": checkpoint_bytes,
        "kv_tokens": kv_tokens_of(spec),
        "kv_cache_dtype": kv_dtype if kv_dtype in KV_BITS else "auto",
        "budget_bytes": _budget(spec, device),
    }
    per_machine = spec.hardware.devices_per_machine or 1
    least, why = fewest(architecture, form, **sizes, per_machine=per_machine)
    if tp * pp == 1:
        remarks.extend(why)
        if least is None:
            remarks.append(f"does not fit on {per_machine * 16} devices")
        elif least.devices > 1:
            remarks.append(f"type {typed(spec, least)}")
        return least, False
    whole = _field(spec, ("ep_size",)) > 1 or bool(spec.engine.config.get("enable_expert_parallel"))
    asked = spread(architecture, form, **sizes, tp=tp, pp=pp, whole_experts=whole)
    reason = refusal(architecture, form, tp, whole_experts=whole)
    if reason:
        remarks.append(f"tp {tp}: {reason}")
    if reason or not asked.fits:
        more = f"; type {typed(spec, least)}" if least else ""
        remarks.append(f"as asked, on {asked.devices} devices, it does not run{more}")
    return asked, True


def typed(spec: RunSpec, found: Spread) -> str:
    """Return the overrides that spread a server so."""
    vllm = spec.engine.name == "vllm"
    words = [f"engine.{'tensor_parallel_size' if vllm else 'tp_size'}={found.tp}"]
    if found.pp > 1:
        words.append(f"engine.{'pipeline_parallel_size' if vllm else 'pp_size'}={found.pp}")
        words += [] if vllm else [f"engine.nnodes={found.pp}"]
    if found.ep > 1:
        words.append("engine.enable_expert_parallel=true" if vllm else f"engine.ep_size={found.ep}")
    return " ".join(words)


def _cell(spec: RunSpec, shape: Shape, device: Device | None, form: Format | None, devices: int) -> CellForecast:
    length, tokens = context_of(spec), shape.input_len + shape.output_len
    if tokens > length:
        longer = "; type context=131k" if tokens <= 131072 and spec.model.rope else ""
        reason = f"{tokens:,} tokens are more than the context of {length:,}{longer}"
        return CellForecast(shape=shape, limit=None, likely_tpot_s=None, best_s=None, likely_s=None, reason=reason)
    if device is None:
        return CellForecast(shape=shape, limit=None, likely_tpot_s=None, best_s=None, likely_s=None, reason=None)
    architecture = spec.model.architecture
    emulated = spec.engine.name == "transformers" and form is not None
    bits = bits_per_weight(form, architecture) if form and not emulated else None
    kv_dtype = str(spec.engine.config.get("kv_cache_dtype", "auto"))
    closed = shape.request_rate is None
    found = limit(
        architecture,
        weight_bytes(architecture, bits),
        device,
        input_len=shape.input_len,
        output_len=shape.output_len,
        concurrency=shape.concurrency if closed else 1,
        sent_together=closed and shape.n_requests == shape.concurrency,
        devices=devices,
        kv_cache_dtype=kv_dtype if kv_dtype in KV_BITS else "auto",
        multiplied_in="bf16" if emulated else _multiplied_in(form),
    )
    name = spec.quant.name
    law = law_for(LAW_OF.get(name, name), spec.engine.name)
    likely = (
        law.predict(found.traffic.total_bytes, bandwidth_bytes_per_s=found.bandwidth_bytes_per_s)
        if law and devices == shape.concurrency == 1 and closed and not device.measured and not architecture.experts
        else None
    )
    times = spec.workload.trials + 1
    rounds = math.ceil(shape.n_requests / shape.concurrency)

    def all_trials(tpot_s: float) -> float:
        if shape.request_rate is not None:
            return times * shape.n_requests / shape.request_rate
        return times * rounds * (found.roof_ttft_s + (shape.output_len - 1) * tpot_s)

    return CellForecast(
        shape=shape,
        limit=found,
        likely_tpot_s=likely,
        best_s=all_trials(found.roof_tpot_s),
        likely_s=all_trials(likely.value) if likely else None,
        reason=None,
    )


def _task(spec: RunSpec, task: str, device: Device | None, devices: int) -> TaskForecast:
    known = benchmarks().get(task)
    items = known.items if known else None
    if known and spec.accuracy.limit:
        per_leaf = max(spec.accuracy.limit, math.ceil(spec.accuracy.at_least / len(known.leaves)))
        items = sum(min(per_leaf, leaf.items) for leaf in known.leaves.values())
    if items is None or device is None or task != "mmlu" or spec.accuracy.fewshot_of(task) != 5:
        return TaskForecast(task=task, items=items, best_s=None)
    flops = 2.0 * MMLU_TOKENS * items * active_parameters(spec.model.architecture)
    return TaskForecast(task=task, items=items, best_s=flops / device.flops_per_s.get("bf16", math.inf) / devices)


def _remarks(spec: RunSpec, form: Format | None, device: Device | None) -> list[str]:
    found = []
    if spec.yarn is not None:
        found.append(f"YaRN stretches the positions {spec.yarn.factor:g} times, to {spec.yarn.length:,} tokens")
        longest = spec.model.rope.longest if spec.model.rope else None
        if longest and spec.yarn.length > longest:
            found.append(f"its makers say that YaRN takes it to {longest:,} tokens only")
    kind = _multiplied_in(form)
    if device and kind != "bf16" and kind not in device.flops_per_s:
        found.append(f"{device.name} does not multiply {kind}: only the smaller weights are a gain")
    if spec.engine.name == "transformers" and form is not None:
        found.append("engine=transformers computes with weights expanded to 16 bits: accuracy counts, speed does not")
    return found


def forecast(spec: RunSpec, device: Device | None, problems: tuple[str, ...] = ()) -> Forecast:
    """Return what a run will take.

    Args:
        spec: the run.
        device: one of the devices that it is planned for; None if that is not known.
        problems: why it cannot run on this machine as it is.
    """
    architecture = spec.model.architecture
    form = _format(spec.quant, spec)
    bits = bits_per_weight(form, architecture) if form else None
    linear = architecture.linear_parameters()
    size = 2.0 * (architecture.parameters() - linear) + linear * (bits or 16) / 8
    remarks = _remarks(spec, form, device)
    found: Spread | None = None
    asked = False
    if device is not None:
        found, asked = _spread(spec, form, device, size, remarks)
    devices = found.devices if found else 1
    made = spec.release is None
    hub = (spec.release or spec.model.source).get("kind") == "hub"
    heldout = (spec.heldout.n_samples or 33, spec.heldout.max_seq_len)
    calibration = spec.quant.config.get("calibration") if made else None
    return Forecast(
        model=spec.variant.model,
        quant=spec.variant.quant,
        engine=spec.engine.name,
        device=device,
        total_parameters=architecture.parameters(),
        active_parameters=active_parameters(architecture),
        bits=bits,
        checkpoint_bytes=size,
        download_bytes=(2.0 * architecture.parameters() if made else size) if hub else None,
        build=(
            estimate(
                architecture, spec.quant.module, spec.quant.config, heldout=heldout, bits=form.bits if form else None
            )
            if made
            else None
        ),
        calibration=f"{calibration['n_samples']} × {calibration['max_seq_len']} tokens" if calibration else None,
        spread=found,
        asked=asked,
        cells=tuple(_cell(spec, shape, device, form, devices) for shape in shapes_of(spec.workload)),
        tasks=tuple(_task(spec, task, device, devices) for task in spec.accuracy.tasks),
        remarks=(*remarks, *problems),
    )
