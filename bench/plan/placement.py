"""Whether and on how many devices a run's server fits, and the overrides for it. From shapes and settings only."""

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
"""Maximum number of machines. Chosen: more than any configured model needs."""
WHOLE = 0.9
"""Share of the memory to plan with if the engine sets none: vLLM's default."""
ASSUMED_TOKENS = 4096
"""Tokens in the KV cache if only accuracy is measured. Chosen: a few long prompts of tasks."""


class ServedWeights(Frozen):
    """How a server stores and multiplies a model's weights."""

    form: Format | None
    """How the checkpoint stores its quantized layers; None if nothing is quantized."""
    stored_bits: float | None
    """Bits per quantized weight in the checkpoint, with scales; None if nothing is quantized."""
    bits: float | None
    """Bits per quantized weight in the server's memory, with scales; None for 16."""
    multiplied_in: str
    kv_cache_dtype: str
    """A key of :data:`bench.limits.roofline.KV_BITS`."""
    emulated: bool
    """Whether the weights are expanded to 16 bits before they are multiplied."""


class Fit(Frozen):
    """How a server's model is sharded, with remarks."""

    spread: Sharding
    """Sharding of one copy: over the fewest devices, or as requested."""
    copies: int
    """Copies of the model, each on its own devices."""
    refused: str | None
    """Why the engine would refuse to load it."""
    remarks: tuple[str, ...]

    @property
    def devices(self) -> int:
        """Number of devices, all copies together."""
        return self.spread.devices * self.copies

    @property
    def loads(self) -> bool:
        """Whether the engine can load the weights: they fit, and the split is allowed."""
        return self.refused is None and self.spread.kv_capacity_tokens > 0

    @property
    def works(self) -> bool:
        """Whether the engine can load the weights and the largest cell fits."""
        return self.refused is None and self.spread.fits


def format_of(spec: RunSpec) -> Format | None:
    """Return how a run's checkpoint stores its quantized layers; None if nothing is quantized."""
    method = spec.quant.method
    if spec.release:
        fields = spec.release.fields()
        method = method.as_released(
            {name for name, official in spec.model.official.items() if official.items() <= fields.items()}
        )
    return method.expected(spec.model.architecture).format


def served_weights(spec: RunSpec) -> ServedWeights:
    """Return how a run's server stores and multiplies its weights."""
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
    """Return (bytes of the quantized layers at ``bits`` per weight, bytes of everything else)."""
    linear = architecture.linear_parameters()
    return linear * (bits or 16.0) / 8, 2.0 * (architecture.parameters() - linear)


def tokens_at_once(shape: Shape, copies: int = 1) -> int:
    """Return the tokens in one copy's KV cache at once; for an open loop, those of one request."""
    tokens = shape.input_len + shape.output_len
    return tokens * (math.ceil(shape.concurrency / copies) if shape.request_rate_per_s is None else 1)


def _is_typed(spec: RunSpec) -> bool:
    """Return whether the command sets the number of devices."""
    pattern = re.compile(rf"\+*engine\.(\w+\.)?({'|'.join(spec.engine.parallel_fields)})=")
    return bool(spec.engine.parallel_fields) and any(pattern.match(word) for word in spec.command)


def split_overrides(spec: RunSpec, sharding: Sharding) -> str:
    """Return the overrides for a sharding."""
    choice = [] if f"engine={spec.engine.name}" in spec.command else [f"engine={spec.engine.name}"]
    split = Parallelism(tp=sharding.tp, pp=sharding.pp, whole_experts=sharding.ep > 1)
    return " ".join([*choice, *spec.engine.parallel_overrides(split)])


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
    """Return how a run's server is sharded: as set by the engine's fields, else over the fewest devices.

    Args:
        spec: the run.
        model: how the server stores the weights.
        device: one of the devices.
        per_machine: devices per machine.
    """
    copies, length = spec.engine.parallelism.dp, context_of(spec)
    supported = [shape for shape in shapes_of(spec.workload) if shape.input_len + shape.output_len <= length]
    tokens = [tokens_at_once(shape, copies) for shape in supported] or [min(length, ASSUMED_TOKENS)]
    largest = _load(spec, model, device, max(tokens))
    can_split = spec.engine.splits and not device.measured
    most = (per_machine, MOST_MACHINES) if can_split else (1, 1)
    architecture = spec.model.architecture
    least, why = fewest(architecture, model.form, largest, per_machine=most[0], machines=most[1])
    advice = f"type {split_overrides(spec, least)}" if least and least.devices > 1 else None
    if spec.engine.parallelism.tp * spec.engine.parallelism.pp > 1 or _is_typed(spec):
        return _as_requested(spec, model, largest, copies, advice)
    if least is not None:
        return Fit(spread=least, copies=copies, refused=None, remarks=(*why, *([advice] if advice else [])))
    # The largest cell does not fit: use the devices that the smallest cell needs, or else the maximum.
    smallest = largest.model_copy(update={"kv_tokens": min(tokens)})
    few, _ = fewest(architecture, model.form, smallest, per_machine=most[0], machines=most[1])
    tp, pp = (few.tp, few.pp) if few else (2 ** int(math.log2(most[0])), most[1])
    shown = spread(architecture, largest, tp, pp, whole_experts=few is not None and few.ep > 1)
    others = " and ".join(f"engine={name}" for name in splitting())
    alone = f"engine={spec.engine.name} takes one device; {others} split a model over several"
    more = () if can_split or device.measured else (alone,)
    return Fit(spread=shown, copies=copies, refused=None, remarks=(*why, _too_much(shown), *more))


def _as_requested(spec: RunSpec, model: ServedWeights, load: Load, copies: int, advice: str | None) -> Fit:
    """Return the sharding set by the engine's fields, with its problems."""
    architecture = spec.model.architecture
    tp, pp = spec.engine.parallelism.tp, spec.engine.parallelism.pp
    whole = spec.engine.parallelism.whole_experts
    sharding = spread(architecture, load, tp, pp, whole_experts=whole)
    refused = refusal(architecture, model.form, tp, whole_experts=whole)
    problems = [*([refused] if refused else []), *([] if sharding.fits else [_too_much(sharding)])]
    size = f"tp {tp}{f', pp {pp}' if pp > 1 else ''}, as asked"
    fix = f"; {advice}" if advice else ""
    return Fit(
        spread=sharding,
        copies=copies,
        refused=refused,
        remarks=tuple(f"{size}: {reason}{fix}" for reason in problems),
    )
