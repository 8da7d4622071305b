"""The frozen spec of one run; :mod:`bench.config.validate` builds it from a config.

The engine, method and source are resolved once, from the composed config, and are fields of the spec.
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
    """Return a margin such as ``1pp`` or ``0.01`` as a share; leave other types to pydantic."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    return parse_margin(str(value), "accuracy.margin=")


NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]*")
ALLOWED = "a name consists of letters, digits, '.', '_' and '-', and begins with a letter or digit"


def _checked_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r}: {ALLOWED}")
    return text


Name = Annotated[str, AfterValidator(_checked_name)]
"""A name that becomes part of a file's path."""


def name_of(folder: str) -> str:
    """Return a model's name for its folder's name: the same if it is a valid `Name`, else one derived from it."""
    if NAME.fullmatch(folder):
        return folder
    kept = re.sub("[^A-Za-z0-9._-]+", "-", folder).strip("._-")
    return f"{kept or 'model'}-{sha256_text(folder)[:8]}"


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Workload(Frozen):
    """Shapes of the speed sweep. Lengths are in tokens."""

    name: str
    input_lens: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple)]
    output_len: PositiveInt
    concurrency: Annotated[tuple[PositiveInt, ...], BeforeValidator(_as_tuple)]
    requests_per_slot: PositiveInt
    """Requests that each concurrent slot sends in sequence; 1 sends all requests of a trial together."""
    request_rates: Annotated[tuple[Rate, ...], BeforeValidator(_as_tuple)]
    """Open loops with Poisson arrivals, in the unit of requests per second; empty for closed loops only."""
    open_loop_requests: PositiveInt
    """Requests of one trial of an open loop."""
    open_loop_concurrency: PositiveInt
    """Concurrent requests at which an open loop is stopped."""
    objective: Objective | None
    """Limits that a request must meet to count towards goodput."""
    trials: PositiveInt


class AccuracySpec(Frozen):
    """Which lm-eval tasks run, and how."""

    name: str
    tasks: Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)]
    limit: PositiveInt | None
    """Items of each leaf task, such as an MMLU subject; None for all."""
    at_least: PositiveInt
    """Minimum number of items of a complete task, whatever the limit."""
    num_fewshot: Annotated[int, Field(ge=0)] | dict[str, Annotated[int, Field(ge=0)]] | None
    chat_template: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
    thinking: bool
    """Whether the chat template lets the model reason before it answers."""
    sampling: Mode | None
    """Sampling of answers to prompts with the chat template; None for the task's own."""
    max_gen_toks: PositiveInt | None
    """Maximum length of an answer, tokens; None for the task's own."""
    max_thinking_toks: PositiveInt
    """Maximum length of reasoning and answer together, tokens, where the model reasons."""
    max_share: dict[Problem, Annotated[float, Field(ge=0, le=1)]]
    """Share of affected items above which a score is invalid, for each problem."""
    margin: Annotated[float, Field(gt=0, le=LARGEST), BeforeValidator(_as_share)]
    """Non-inferiority margin: the loss, as a share of 1, up to which a variant counts as no worse."""
    noise_floor: bool
    """Whether BF16 is scored twice, to measure differences by chance."""
    concurrency: PositiveInt | Literal["auto"]
    verify_data: bool
    hub_dir: Path | None

    def cap_of(self, task: str) -> int | None:
        """Return the maximum length of an answer of ``task``, tokens; None for the task's own."""
        thinks = self.thinking and task in self.chat_template
        return self.max_thinking_toks if thinks else self.max_gen_toks

    def sampling_of(self, task: str) -> Mode | None:
        """Return the sampling of answers of ``task``; None for the task's own."""
        return self.sampling if task in self.chat_template else None

    def fewshot_of(self, task: str) -> int | None:
        """Return the number of few-shot examples of ``task``; None for the task's own."""
        return self.num_fewshot.get(task) if isinstance(self.num_fewshot, dict) else self.num_fewshot


class Rope(Frozen):
    """The rotary position embedding of a model."""

    theta: PositiveFloat
    """Base of the rotary frequencies, without unit."""
    original: PositiveInt
    """Context length of the training, tokens; YaRN extends it."""
    longest: PositiveInt | None = None
    """Longest context that the model's authors state, by YaRN or otherwise, tokens; None if they state none."""


class ContextSpec(Frozen):
    """Longest prompt plus answer."""

    name: str
    length: PositiveInt | None
    """Tokens; extended by YaRN beyond the model's own context. None for the model's own."""


class HardwareSpec(Frozen):
    """The machine that a plan is made for."""

    name: str
    device: str | None
    """The driver's name for it, as in ``devices.toml``; None for this machine."""
    devices_per_machine: PositiveInt | None

    @property
    def on_cpu(self) -> bool | None:
        """Whether the plan is for a machine without a GPU; None for this machine."""
        return None if self.name == "auto" else self.device is None


class ModelSpec(Frozen):
    """A model: the source of its weights, and its properties that are known without them."""

    name: Name
    title: str
    source: SerializeAsAny[Source]
    context_length: PositiveInt
    """Longest prompt plus answer, tokens."""
    architecture: Architecture
    rope: Rope | None = None
    """None if unknown: then the context cannot be extended."""
    modes: dict[Literal["plain", "thinking"], Mode] = Field(default_factory=dict)
    """Modes of its chat template with their recommended sampling; empty if unknown."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer; empty if unknown."""
    official: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The model's official quantized releases, by quantization: the fields of their sources."""


class QuantSpec(Frozen):
    """A quantization: the name of its config, and its method."""

    name: Name
    method: SerializeAsAny[Method]


class Baseline(Frozen):
    """A quantization served next to the run's own, with interleaved trials."""

    variant: Variant
    quant: QuantSpec
    release: SerializeAsAny[Source] | None


class ReportSpec(Frozen):
    """Options of the report."""

    name: str
    lang: Literal["en", "zh"] = "en"


class RunSpec(Frozen):
    """The complete specification of one run."""

    model: ModelSpec
    context: ContextSpec
    hardware: HardwareSpec
    quant: QuantSpec
    release: SerializeAsAny[Source] | None
    """Source of an already quantized checkpoint; None if it is quantized here."""
    heldout: HeldoutConfig
    engine: SerializeAsAny[Engine]
    workload: Workload
    accuracy: AccuracySpec
    report: ReportSpec
    variant: Variant
    command: tuple[str, ...]
    baseline: Baseline | None
    """The baseline served next to the variant; None measures the variant alone."""
    plan: Literal[False, True, "json"]
    """Whether to print a plan instead of running, as text or as JSON."""
    price_per_hour: Rate | None
    """Price of the complete machine, dollars per hour."""
    seed: int
    results_dir: Path
    reports_dir: Path
    session: Name

    @property
    def context_length(self) -> int:
        """Longest prompt plus answer, tokens, unless a field of the engine overrides it."""
        return self.context.length or self.model.context_length

    @property
    def yarn(self) -> Yarn | None:
        """How YaRN extends the model's context; None if it does not."""
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
    """Return a spec as it is stored in the run's record."""
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
