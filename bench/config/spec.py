"""What one run needs to know, frozen; :mod:`bench.config.validate` makes it from a config.

Engine, method and source are resolved once, from the composed config; whoever needs them asks the spec.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, SerializeAsAny

from bench.engines import Engine
from bench.records.margin import LARGEST, parse_margin
from bench.records.record import Mode, Objective, Problem, Variant, Yarn
from bench.records.spec import (
    RecordedAccuracy,
    RecordedContext,
    RecordedEngine,
    RecordedModel,
    RecordedQuant,
    RecordedSpec,
)
from quantize.architecture import Architecture
from quantize.key import Frozen, sha256_text
from quantize.method import Method
from quantize.source import Source
from quantize.texts import HeldoutConfig


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, int | float | str) else value


def _as_share(value: Any) -> Any:
    """Return a margin such as ``1pp`` or ``0.01`` as a share; what is neither text nor number is left to its type."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    return parse_margin(str(value), "accuracy.margin=")


NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
ALLOWED = "a name holds letters, digits, '.', '_' and '-', and begins with a letter or digit"


def _checked_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r}: {ALLOWED}")
    return text


Name = Annotated[str, AfterValidator(_checked_name)]
"""A name that becomes part of a file's path."""


def name_of(folder: str) -> str:
    """Return the name of a model for the name of its folder: the same, or one of its own if that is no `Name`."""
    if NAME.fullmatch(folder):
        return folder
    kept = re.sub("[^A-Za-z0-9._-]+", "-", folder).strip("._-")
    return f"{kept or 'model'}-{sha256_text(folder)[:8]}"


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Workload(Frozen):
    """Shapes of the speed sweep. Lengths are tokens."""

    name: str
    input_lens: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple)]
    output_len: PositiveInt
    concurrency: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple)]
    requests_per_slot: PositiveInt
    """Requests that each of the concurrent slots sends one after the other; 1 sends all of a trial together."""
    request_rates: Annotated[tuple[Rate, ...], BeforeValidator(_as_tuple)]
    """In the unit of requests per second: open loops with Poisson arrivals; none for closed loops alone."""
    open_loop_requests: PositiveInt
    """Requests of one trial of an open loop."""
    open_loop_concurrency: PositiveInt
    """Requests of an open loop that may be under way at once before it is stopped."""
    objective: Objective | None
    """What a request must keep to count into goodput."""
    trials: PositiveInt


class AccuracySpec(Frozen):
    """Which lm-eval tasks run, and how."""

    name: str
    tasks: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)]
    limit: PositiveInt | None
    """Items of each leaf task, such as an MMLU subject; None for all."""
    at_least: PositiveInt
    """Items of a whole task below which the limit does not go."""
    num_fewshot: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] | None
    chat_template: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
    thinking: bool
    """Whether a chat template lets the model reason first."""
    sampling: Mode | None
    """How the tokens of answers are drawn where the chat template is used; None for as each task says."""
    max_gen_toks: PositiveInt | None
    """Cap on answers; None for each task's own."""
    max_thinking_toks: PositiveInt
    """The same where the model reasons first, its reasoning included."""
    max_share: dict[Problem, Annotated[float, Field(ge=0, le=1)]]
    """Share of items with a problem above which a score is invalid."""
    margin: Annotated[float, Field(gt=0, le=LARGEST), BeforeValidator(_as_share)]
    """Loss, of 1, up to which a variant counts as no worse."""
    noise_floor: bool
    """Whether BF16 is scored twice, to see how much differs by chance."""
    concurrency: PositiveInt | Literal["auto"]
    verify_data: bool
    hub_dir: Path | None

    def cap_of(self, task: str) -> int | None:
        """Return the cap on answers of ``task``, tokens; None for the task's own."""
        thinks = self.thinking and task in self.chat_template
        return self.max_thinking_toks if thinks else self.max_gen_toks

    def sampling_of(self, task: str) -> Mode | None:
        """Return how the tokens of answers of ``task`` are drawn; None for as the task says."""
        return self.sampling if task in self.chat_template else None

    def fewshot_of(self, task: str) -> int | None:
        """Return the number of examples for ``task``; None means the task's own."""
        return self.num_fewshot.get(task) if isinstance(self.num_fewshot, dict) else self.num_fewshot


class Rope(Frozen):
    """The rotary positions of a model."""

    theta: PositiveFloat
    """Base of the rotary frequencies, without unit."""
    original: PositiveInt
    """Positions that it was trained with, tokens: what YaRN stretches."""
    longest: PositiveInt | None = None
    """Tokens to which its makers say it can be stretched, by YaRN or otherwise; None if they say nothing."""


class ContextSpec(Frozen):
    """How long prompt and answer may be together."""

    name: str
    length: PositiveInt | None
    """Tokens, reached by YaRN where it is more than the model's own; None for the model's own."""


class HardwareSpec(Frozen):
    """The machine that a plan is made for."""

    name: str
    device: str | None
    """As its driver calls it, for ``devices.toml``; None for the machine at hand."""
    devices_per_machine: PositiveInt | None

    @property
    def on_cpu(self) -> bool | None:
        """Whether the plan is for a machine without a GPU; None for the machine at hand."""
        return None if self.name == "auto" else self.device is None


class ModelSpec(Frozen):
    """A model: where its weights come from, and what can be known of it without them."""

    name: Name
    title: str
    source: SerializeAsAny[Source]
    context_length: PositiveInt
    """Longest prompt plus answer, tokens."""
    architecture: Architecture
    rope: Rope | None = None
    """None where it is not known: its context cannot be stretched."""
    modes: dict[Literal["plain", "thinking"], Mode] = Field(default_factory=dict)
    """What its chat template can do; empty if that is not known."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer; empty if they are not known."""
    official: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The model's own quantized releases, by name of quantization; fields of a source."""


class QuantSpec(Frozen):
    """A quantization: the name of its config, and the method behind it."""

    name: Name
    method: SerializeAsAny[Method]


class Baseline(Frozen):
    """A quantization that is served beside the run's own, for their trials to take turns."""

    variant: Variant
    quant: QuantSpec
    release: SerializeAsAny[Source] | None


class ReportSpec(Frozen):
    """How the report is written."""

    name: str
    lang: Literal["en", "zh"] = "en"


class RunSpec(Frozen):
    """Everything one run needs to know."""

    model: ModelSpec
    context: ContextSpec
    hardware: HardwareSpec
    quant: QuantSpec
    release: SerializeAsAny[Source] | None
    """Where an already quantized checkpoint comes from; None for one that is made here."""
    heldout: HeldoutConfig
    engine: SerializeAsAny[Engine]
    workload: Workload
    accuracy: AccuracySpec
    report: ReportSpec
    variant: Variant
    command: tuple[str, ...]
    baseline: Baseline | None
    """What is served beside this one; None measures this one alone."""
    plan: Literal[False, True, "json"]
    """Whether to say what would run instead of running it, in words or as JSON."""
    price_per_hour: Rate | None
    """Dollars per hour of the whole machine."""
    seed: int
    results_dir: Path
    reports_dir: Path
    session: Name

    @property
    def context_length(self) -> int:
        """Longest prompt plus answer, tokens, where no field of the engine's own says otherwise."""
        return self.context.length or self.model.context_length

    @property
    def yarn(self) -> Yarn | None:
        """How the model's positions are stretched; None if they are not."""
        if self.context_length <= self.model.context_length or self.model.rope is None:
            return None
        return Yarn(factor=self.context_length / self.model.rope.original, original=self.model.rope.original)


def _recorded_quant(quant: QuantSpec, release: Source | None) -> RecordedQuant:
    return RecordedQuant(
        name=quant.name,
        method=quant.method.name,
        config=quant.method.config.model_dump(mode="json"),
        release=release.fields() if release else None,
    )


def record_spec(spec: RunSpec) -> RecordedSpec:
    """Return a spec as its run's record keeps it."""
    fields = spec.engine.config.model_dump(mode="json")
    named = {"margin", "tasks", "limit", "max_gen_toks"}
    return RecordedSpec(
        model=RecordedModel(
            title=spec.model.title,
            source=spec.model.source.fields(),
            context_length=spec.model.context_length,
            architecture=spec.model.architecture,
        ),
        quant=_recorded_quant(spec.quant, spec.release),
        baseline=_recorded_quant(spec.baseline.quant, spec.baseline.release) if spec.baseline else None,
        context=RecordedContext(name=spec.context.name, length=spec.context.length),
        heldout=spec.heldout,
        engine=RecordedEngine(name=spec.engine.name, config=fields, dtype=spec.engine.dtype),
        workload=spec.workload.model_dump(mode="json"),
        accuracy=RecordedAccuracy(
            margin=spec.accuracy.margin,
            tasks=spec.accuracy.tasks,
            limit=spec.accuracy.limit,
            max_gen_toks=spec.accuracy.max_gen_toks,
            settings=spec.accuracy.model_dump(mode="json", exclude=named),
        ),
        seed=spec.seed,
    )
