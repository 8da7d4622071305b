"""Whether a run's server fits, on how many devices, and what to type for it. From shapes and settings alone."""

import math
import re

from bench import format as fmt
from bench.config.spec import RunSpec
from bench.engines import Parallelism, splitting
from bench.limits.roofline import KV_BITS, bits_per_weight, kv_bytes_per_token
from bench.plan.parallelism import Load, Sharding, fewest, refusal, spread
from bench.plan.stages import context_of, shapes_of
from bench.records.record import Device
from bench.speed.shapes import Shape
from quantize.architecture import Architecture
from quantize.formats import Format
from quantize.key import Frozen

MOST_MACHINES = 16
"""Most machines that a model is spread over. Chosen: more than any configured model needs."""
WHOLE = 0.9
"""Part of the memory that is planned with where an engine names none: the default of vLLM."""
ASSUMED_TOKENS = 4096
"""Keys and values that are held where nothing but accuracy is measured. Chosen: a few long prompts of tasks."""


class ServedWeights(Frozen):
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

    spread: Sharding
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
    method = spec.quant.method
    if spec.release:
        fields = spec.release.fields()
        method = method.as_released(
            {name for name, own in spec.model.official.items() if own.items() <= fields.items()}
        )
    return method.expected(spec.model.architecture).format


def served_weights(spec: RunSpec) -> ServedWeights:
    """Return how a run's server holds its weights."""
    form = format_of(spec)
    bits = bits_per_weight(form, spec.model.architecture) if form else None
    emulated = form is not None and spec.engine.emulates(form, spec.hardware.on_cpu)
    inputs = form.activations if form and not emulated else None
    kv_dtype = spec.engine.kv_cache_dtype
    return ServedWeights(
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
    return tokens * (math.ceil(shape.concurrency / copies) if shape.request_rate_per_s is None else 1)


def _is_typed(spec: RunSpec) -> bool:
    """Return whether the command says over how many devices the model is split."""
    pattern = re.compile(rf"\+*engine\.(\w+\.)?({'|'.join(spec.engine.parallel_fields)})=")
    return bool(spec.engine.parallel_fields) and any(pattern.match(word) for word in spec.command)


def split_overrides(spec: RunSpec, sharding: Sharding) -> str:
    """Return the overrides that spread a server so."""
    words = [] if f"engine={spec.engine.name}" in spec.command else [f"engine={spec.engine.name}"]
    split = Parallelism(tp=sharding.tp, pp=sharding.pp, whole_experts=sharding.ep > 1)
    return " ".join([*words, *spec.engine.parallel_overrides(split)])


def _load(spec: RunSpec, model: ServedWeights, device: Device, kv_tokens: int) -> Load:
    layers, rest = sizes(spec.model.architecture, model.bits)
    part = WHOLE if device.measured else spec.engine.memory_fraction or WHOLE
    return Load(
        layers_bytes=layers,
        rest_bytes=rest,
        kv_bytes_per_token=kv_bytes_per_token(spec.model.architecture, model.kv_cache_dtype),
        kv_tokens=kv_tokens,
        budget_bytes=device.memory_bytes * part,
    )


def _too_much(sharding: Sharding) -> str:
    held = f"{fmt.space(sharding.weights_bytes)} of weights and {fmt.space(sharding.kv_bytes)} of keys and values"
    room = fmt.space(sharding.budget_bytes)
    return f"{held}{' for each device' if sharding.devices > 1 else ''} are more than the {room} that a server may take"


def fit(spec: RunSpec, model: ServedWeights, device: Device, *, per_machine: int) -> Fit:
    """Return how the server of a run is spread over devices: as the engine's fields say, else over the fewest.

    Args:
        spec: the run.
        model: how it is held.
        device: one of the devices.
        per_machine: devices of one machine.
    """
    copies, length = spec.engine.parallelism.dp, context_of(spec)
    able = [shape for shape in shapes_of(spec.workload) if shape.input_len + shape.output_len <= length]
    tokens = [tokens_at_once(shape, copies) for shape in able] or [min(length, ASSUMED_TOKENS)]
    largest = _load(spec, model, device, max(tokens))
    spreads = spec.engine.splits and not device.measured
    most = (per_machine, MOST_MACHINES) if spreads else (1, 1)
    architecture = spec.model.architecture
    least, why = fewest(architecture, model.form, largest, per_machine=most[0], machines=most[1])
    advice = f"type {split_overrides(spec, least)}" if least and least.devices > 1 else None
    if spec.engine.parallelism.tp * spec.engine.parallelism.pp > 1 or _is_typed(spec):
        return _asked(spec, model, largest, copies, advice)
    if least is not None:
        return Fit(spread=least, copies=copies, refused=None, remarks=(*why, *([advice] if advice else [])))
    # Not all of it fits: shown on what holds the smallest cell, or else on as many as there may be.
    smallest = largest.model_copy(update={"kv_tokens": min(tokens)})
    few, _ = fewest(architecture, model.form, smallest, per_machine=most[0], machines=most[1])
    tp, pp = (few.tp, few.pp) if few else (2 ** int(math.log2(most[0])), most[1])
    shown = spread(architecture, largest, tp, pp, whole_experts=few is not None and few.ep > 1)
    others = " and ".join(f"engine={name}" for name in splitting())
    alone = f"engine={spec.engine.name} takes one device; {others} split a model over several"
    more = () if spreads or device.measured else (alone,)
    return Fit(spread=shown, copies=copies, refused=None, remarks=(*why, _too_much(shown), *more))


def _asked(spec: RunSpec, model: ServedWeights, load: Load, copies: int, advice: str | None) -> Fit:
    """Return how a server is spread as its fields say, judged."""
    architecture = spec.model.architecture
    tp, pp = spec.engine.parallelism.tp, spec.engine.parallelism.pp
    whole = spec.engine.parallelism.whole_experts
    sharding = spread(architecture, load, tp, pp, whole_experts=whole)
    refused = refusal(architecture, model.form, tp, whole_experts=whole)
    wrong = [*([refused] if refused else []), *([] if sharding.fits else [_too_much(sharding)])]
    size = f"tp {tp}{f', pp {pp}' if pp > 1 else ''}, as asked"
    better = f"; {advice}" if advice else ""
    return Fit(
        spread=sharding,
        copies=copies,
        refused=refused,
        remarks=tuple(f"{size}: {reason}{better}" for reason in wrong),
    )
