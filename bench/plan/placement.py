"""Whether a run's server fits, on how many devices, and what to type for it. From shapes and settings alone."""

import math
import re
from typing import Any

from bench.config.plugins import plugin
from bench.config.spec import RunSpec
from bench.limits.roofline import KV_BITS, bits_per_weight, kv_bytes_per_token
from bench.plan.parallelism import Load, Spread, fewest, refusal, spread
from bench.plan.stages import context_of, shapes_of
from bench.records.record import Device
from bench.speed.shapes import Shape
from quantize.architecture import Architecture
from quantize.estimate import in_words
from quantize.formats import Format
from quantize.key import Frozen

TENSOR = ("tp_size", "tensor_parallel_size")
PIPELINE = ("pp_size", "pipeline_parallel_size")
COPIES = ("dp_size", "data_parallel_size")
"""What engines call the sizes of their spread."""
MOST_MACHINES = 16
WHOLE = 0.9
"""Part of the memory that is planned with where an engine names none."""
ASSUMED_TOKENS = 4096
"""Keys and values that are held where nothing but accuracy is measured."""


class Served(Frozen):
    """How a server holds and multiplies a model's weights."""

    form: Format | None
    """How the checkpoint stores its quantized layers; None if nothing is quantized."""
    stored_bits: float | None
    """Of a quantized weight in the checkpoint, scales included; None if nothing is quantized."""
    bits: float | None
    """The same in the server's memory; None for 16."""
    multiplied_in: str
    kv_cache_dtype: str
    """A key of :data:`bench.limits.roofline.KV_BITS`."""
    emulated: bool
    """The weights are expanded to 16 bits before they are multiplied."""


class Fit(Frozen):
    """How a server is spread, and what is to be said of it."""

    spread: Spread
    """Of one copy; the fewest devices, or those that were asked for."""
    copies: int
    """Of the model, each on devices of its own."""
    refused: str | None
    """Why the engine would not load it so."""
    remarks: tuple[str, ...]

    @property
    def devices(self) -> int:
        """All of them."""
        return self.spread.devices * self.copies

    @property
    def loads(self) -> bool:
        """Whether the engine would load the weights: they fit, and are split as it allows."""
        return self.refused is None and self.spread.kv_capacity_tokens > 0

    @property
    def works(self) -> bool:
        """Whether the largest cell fits too."""
        return self.refused is None and self.spread.fits


def format_of(spec: RunSpec) -> Format | None:
    """Return how a run's checkpoint stores its quantized layers; None if nothing is quantized."""
    method, config = plugin("quantize.methods", spec.quant.module), spec.quant.config
    blocks = spec.model.official.get("fp8-block")
    if spec.quant.module == "fp8" and spec.release and blocks and blocks.items() <= spec.release.items():
        config = {**config, "scheme": "block"}  # one release that goes by both names
    form: Format | None = method.expected(method.Config.model_validate(config), spec.model.architecture).format
    return form


def served(spec: RunSpec) -> Served:
    """Return how a run's server holds its weights."""
    form = format_of(spec)
    bits = bits_per_weight(form, spec.model.architecture) if form else None
    emulated = spec.engine.module == "transformers" and form is not None
    inputs = form.activations if form and not emulated else None
    kv_dtype = str(spec.engine.config.get("kv_cache_dtype", "auto"))
    return Served(
        form=form,
        stored_bits=bits,
        bits=None if emulated else bits,
        multiplied_in="bf16" if inputs is None else f"{'fp' if inputs.type == 'float' else 'int'}{inputs.num_bits}",
        kv_cache_dtype=kv_dtype if kv_dtype in KV_BITS else "auto",
        emulated=emulated,
    )


def sizes(architecture: Architecture, bits: float | None) -> tuple[float, float]:
    """Return (bytes of the quantized layers, bytes of everything else), where a weight of the former has ``bits``."""
    linear = architecture.linear_parameters()
    return linear * (bits or 16.0) / 8, 2.0 * (architecture.parameters() - linear)


def tokens_at_once(shape: Shape, copies: int = 1) -> int:
    """Return the tokens whose keys and values one copy holds at once; of an open loop, those of one request."""
    tokens = shape.input_len + shape.output_len
    return tokens * (math.ceil(shape.concurrency / copies) if shape.request_rate is None else 1)


def setting(spec: RunSpec, names: tuple[str, ...]) -> int:
    """Return a size of the engine's own fields; 1 where it has no such field."""
    return next((int(spec.engine.config[name]) for name in names if name in spec.engine.config), 1)


def _is_typed(spec: RunSpec, names: tuple[str, ...]) -> bool:
    pattern = re.compile(rf"\+*engine\.(\w+\.)?({'|'.join(names)})=")
    return any(pattern.match(word) for word in spec.command)


def typed(spec: RunSpec, found: Spread) -> str:
    """Return the overrides that spread a server so."""
    vllm = "tensor_parallel_size" in spec.engine.config
    words = [] if f"engine={spec.engine.name}" in spec.command else [f"engine={spec.engine.name}"]
    words.append(f"engine.{'tensor_parallel_size' if vllm else 'tp_size'}={found.tp}")
    if found.pp > 1:
        words.append(f"engine.{'pipeline_parallel_size' if vllm else 'pp_size'}={found.pp}")
        words += [] if vllm else [f"engine.nnodes={found.pp}", "engine.dist_init_addr=HOST:PORT"]
    if found.ep > 1:
        words.append("engine.enable_expert_parallel=true" if vllm else f"engine.ep_size={found.ep}")
    return " ".join(words)


def _engine(spec: RunSpec) -> tuple[Any, Any]:
    """Return an engine's module and its fields."""
    engine = plugin("bench.engines", spec.engine.module)
    return engine, engine.Config.model_validate(spec.engine.config)


def elsewhere(spec: RunSpec) -> bool:
    """Tell whether somebody else runs the server, on devices that are not known here."""
    engine, config = _engine(spec)
    return engine.address(config) is not None


def _load(spec: RunSpec, model: Served, device: Device, kv_tokens: int) -> Load:
    layers, rest = sizes(spec.model.architecture, model.bits)
    engine, config = _engine(spec)
    part = engine.room(config)[1] if hasattr(engine, "room") and not device.measured else WHOLE
    return Load(
        layers_bytes=layers,
        rest_bytes=rest,
        kv_bytes_per_token=kv_bytes_per_token(spec.model.architecture, model.kv_cache_dtype),
        kv_tokens=kv_tokens,
        budget_bytes=device.memory_bytes * part,
    )


def _too_much(found: Spread) -> str:
    held = f"{in_words(int(found.weights_bytes))} of weights and {in_words(int(found.kv_bytes))} of keys and values"
    room = in_words(int(found.budget_bytes))
    return f"{held}{' for each device' if found.devices > 1 else ''} are more than the {room} that a server may take"


def fit(spec: RunSpec, model: Served, device: Device, *, per_machine: int) -> Fit:
    """Return how the server of a run is spread over devices: as the engine's fields say, else over the fewest.

    Args:
        spec: the run.
        model: how it is held.
        device: one of the devices.
        per_machine: devices of one machine.
    """
    copies, length = setting(spec, COPIES), context_of(spec)
    able = [shape for shape in shapes_of(spec.workload) if shape.input_len + shape.output_len <= length]
    tokens = [tokens_at_once(shape, copies) for shape in able] or [min(length, ASSUMED_TOKENS)]
    largest = _load(spec, model, device, max(tokens))
    spreads = any(name in spec.engine.config for name in TENSOR) and not device.measured
    most = (per_machine, MOST_MACHINES) if spreads else (1, 1)
    architecture = spec.model.architecture
    least, why = fewest(architecture, model.form, largest, per_machine=most[0], machines=most[1])
    advice = f"type {typed(spec, least)}" if least and least.devices > 1 else None
    if setting(spec, TENSOR) * setting(spec, PIPELINE) > 1 or _is_typed(spec, TENSOR + PIPELINE):
        return _asked(spec, model, largest, copies, advice)
    if least is not None:
        return Fit(spread=least, copies=copies, refused=None, remarks=(*why, *([advice] if advice else [])))
    # Not all of it fits: shown on what holds the smallest cell, or else on as many as there may be.
    smallest = largest.model_copy(update={"kv_tokens": min(tokens)})
    few, _ = fewest(architecture, model.form, smallest, per_machine=most[0], machines=most[1])
    tp, pp = (few.tp, few.pp) if few else (2 ** int(math.log2(most[0])), most[1])
    shown = spread(architecture, largest, tp, pp, whole_experts=few is not None and few.ep > 1)
    alone = f"engine={spec.engine.name} takes one device; engine=sglang and engine=vllm spread a model over several"
    more = () if spreads or device.measured else (alone,)
    return Fit(spread=shown, copies=copies, refused=None, remarks=(*why, _too_much(shown), *more))


def _asked(spec: RunSpec, model: Served, load: Load, copies: int, advice: str | None) -> Fit:
    """Return how a server is spread as its fields say, judged."""
    architecture = spec.model.architecture
    tp, pp = setting(spec, TENSOR), setting(spec, PIPELINE)
    whole = bool(spec.engine.config.get("enable_expert_parallel")) or setting(spec, ("ep_size",)) > 1
    found = spread(architecture, load, tp, pp, whole_experts=whole)
    refused = refusal(architecture, model.form, tp, whole_experts=whole)
    wrong = [*([refused] if refused else []), *([] if found.fits else [_too_much(found)])]
    size = f"tp {tp}{f', pp {pp}' if pp > 1 else ''}, as asked"
    better = f"; {advice}" if advice else ""
    return Fit(
        spread=found,
        copies=copies,
        refused=refused,
        remarks=tuple(f"{size}: {reason}{better}" for reason in wrong),
    )
