"""The record of a run: frozen values, written once.

Records hold raw observations (the arrival time of every token event, the outcome of every item). Summaries are computed
from them by :mod:`bench.speed.metrics` and never stored alone.
"""

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from bench.records.engine_info import KeptInfo
from bench.records.migrations import upgrade_cell, upgrade_record, upgrade_score
from bench.records.spec import RecordedSpec
from quantize.checkpoint import Manifest
from quantize.key import Frozen

SCHEMA_VERSION: Literal[6] = 6

Status = Literal["ok", "emulated", "invalid", "not_supported", "failed"]


class Yarn(Frozen):
    """YaRN: rotary positions stretched to a longer context (Peng et al., arXiv 2309.00071)."""

    factor: PositiveFloat
    """Ratio of the stretched context to the trained one."""
    original: PositiveInt
    """Positions that the model was trained with, tokens."""

    @property
    def length(self) -> int:
        """The longest context, tokens."""
        return round(self.factor * self.original)


class Mode(Frozen):
    """How tokens are drawn."""

    temperature: float = Field(ge=0, allow_inf_nan=False)
    """Divides the logits before the softmax, without unit; 0 takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability, most likely tokens first, that tokens are drawn from."""
    top_k: int = Field(default=-1, ge=-1)
    """-1 for all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Share of the most likely token's probability below which none is drawn."""


class Variant(Frozen):
    """One model in one quantization, by the names of their config files."""

    model: str
    quant: str


class RequestTrace(Frozen):
    """One streamed request as the client saw it. Times are nanoseconds of one monotonic clock."""

    start_ns: int
    """When the request's first byte was about to be sent, since the trial began."""
    scheduled_ns: int | None = None
    """When it was due in an open loop, since the trial began; latencies count from then. None in a closed loop."""
    event_ns: tuple[int, ...]
    """Arrival of each event that carried tokens, since ``start_ns``."""
    event_tokens: tuple[int, ...]
    """How many tokens each of those events carried (an event is not a token)."""
    events_counted: bool = True
    """Whether the server reported these counts; otherwise each event counts as one token, the last as the rest."""
    end_ns: int
    """When the stream ended, since ``start_ns``."""
    prompt_tokens: int | None
    """The server's own count; None if it reported none."""
    completion_tokens: int | None
    cached_tokens: int | None
    finish_reason: str | None
    error: str | None


class ClientLoad(Frozen):
    """How busy the measuring process was during a trial."""

    lag_p99_ns: int
    """99th percentile of how late its event loop woke up."""
    lag_max_ns: int
    cpu_share: float
    """Ratio of CPU time to wall time; 1 is one core."""


class DeviceState(Frozen):
    """One accelerator at one moment."""

    index: int
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_celsius: int | None
    power_w: float | None
    memory_used_bytes: int | None
    throttled: tuple[str, ...]
    """Why the driver lowers its clocks, by NVML's names."""


class Energy(Frozen):
    """Energy that the accelerators took during a trial."""

    total_j: float
    how: str
    """``counter`` (the device's own) or ``integrated`` (power readings over time)."""
    valid: bool
    """False if the trial was too short for the readings, or they did not change."""


class Trial(Frozen):
    """One wave of requests after a cache flush: all together, a closed loop, or an open loop at a given rate."""

    requests: tuple[RequestTrace, ...]
    started_at: str
    """UTC, ISO 8601; for display, never for durations."""
    peak_memory_bytes: int | None
    """Highest memory of the server seen during the trial: accelerator memory where there is one, else resident."""
    memory: tuple[tuple[int, int], ...] = ()
    """(nanoseconds since the trial began, bytes), reduced to a hundred points or fewer."""
    client: ClientLoad | None = None
    devices_before: tuple[DeviceState, ...] = ()
    devices_after: tuple[DeviceState, ...] = ()
    energy: Energy | None = None
    saturated: str | None = None
    """Why an open loop was stopped early: the server was saturated."""


class Objective(Frozen):
    """The latencies within which a request counts as good."""

    ttft_s: float = Field(gt=0, allow_inf_nan=False)
    tpot_s: float = Field(gt=0, allow_inf_nan=False)


class SpeedCell(Frozen):
    """All trials of one shape."""

    variant: Variant
    engine: str
    input_len: int
    output_len: int
    concurrency: int
    """Requests under way at once; in an open loop, the most that may be."""
    request_rate_per_s: float | None = None
    """Requests per second of an open loop with Poisson arrivals; None for a closed loop."""
    n_requests: int
    """Requests of one trial."""
    objective: Objective | None = None
    context_length: int | None = None
    """Longest prompt plus answer that was served, tokens; None if it was not recorded."""
    yarn: Yarn | None = None
    """How the model's positions were stretched to that."""
    seed: int
    prompts: str = ""
    """Mixed into the seed of the prompts if the server cannot empty its cache, so that each run has new prompts."""
    status: Status
    reasons: tuple[str, ...]
    """Why the status is not ``ok``; empty when it is."""
    unproven: tuple[str, ...] = ()
    """Checks that this server does not support."""
    warnings: tuple[str, ...] = ()
    """Remarks that do not make the cell invalid."""
    warmup_ns: int = 0
    """Time of the warm-up requests."""
    wall_ns: int = 0
    """From the start of the cell to its end, without the trials of the other server of a pair."""
    interleaved: bool = False
    """Whether its trials were interleaved with those of the baseline on a server next to it."""
    trials: tuple[Trial, ...]

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        return upgrade_cell(data)


class Device(Frozen):
    """Peak figures of a single device, from which the physical limit is computed."""

    name: str
    bandwidth_bytes_per_s: float
    """Of its main memory."""
    bandwidth_by_size: tuple[tuple[int, float], ...] = ()
    """(bytes read repeatedly, in the unit of the above), measured, by rising size: caches make small sizes faster."""
    flops_per_s: dict[str, float]
    """By type of the operands: ``bf16``, ``fp8``, ``int8``, ``fp4``, ``fp32``; dense."""
    memory_bytes: int
    source: str
    """Address of a page, or how and when it was measured."""
    measured: bool


class ServerFacts(Frozen):
    """What a running server reports about itself."""

    version: str | None
    kv_capacity_tokens: int | None
    """Tokens whose keys and values fit at once."""
    max_context_tokens: int | None
    """Longest prompt plus answer that it takes."""
    weights_bytes: int | None
    """Memory of its weights, all devices together."""
    kv_cache_dtype: str
    """``auto`` is that of the model."""
    devices: int
    """Accelerators that one copy of the model is spread over; 1 on a CPU."""
    replicas: int = 1
    """Copies of the model, among which requests are distributed."""
    max_running: int | None = None
    """Most requests that it computes together; None if it does not report it."""
    memory_returned: bool | None = None
    """Whether the accelerators' memory returned to its baseline after the server ended; None without accelerators."""


class Control(Frozen):
    """The baseline on a server next to the variant's, with its trials interleaved with the variant's."""

    variant: Variant
    checkpoint: Manifest
    engine_info: KeptInfo
    server: ServerFacts | None
    cells: tuple[SpeedCell, ...]


Problem = Literal["truncated", "empty", "unfinished", "over_long"]

PROBLEM_MEANING: dict[Problem, str] = {
    "truncated": "answers cut off at the token limit, scored as far as they go",
    "empty": "answers without any text",
    "unfinished": "answers cut off while the model was still reasoning: nothing of them is left to score",
    "over_long": "items that do not fit into the model's context; they are not asked, and nothing is cut to fit",
}


class ItemOutcome(Frozen):
    """The outcome of one benchmark item, and its identity, by which it is paired with another variant's."""

    task: str
    """The leaf task, e.g. one MMLU subject."""
    doc_id: int
    doc_hash: str
    prompt_hash: str
    target: str
    answer: str
    """The generated text, or the index of the picked choice."""
    logprobs: tuple[float, ...]
    """Log-probability (natural) of each choice; empty for generated answers."""
    metrics: dict[str, float]
    """What lm-eval computes of the item, 0 to 1."""
    prompt_tokens: int | None = None
    """Length of the prompt; of the longest where an item has several."""
    problem: Problem | None = None
    """What is wrong with a generated answer; None for nothing."""


class Work(Frozen):
    """The server's work on a task: tokens of all its questions; requests, retries and time of this run only."""

    requests: int
    prompt_tokens: int
    unique_tokens: int
    """Prompt tokens outside prefixes shared with other prompts: the fewest that must be computed."""
    cached_tokens: int | None
    """Prompt tokens that the server took from its prefix cache; None if it does not report them."""
    output_tokens: int | None
    """Tokens of generated answers; None if the server does not report them."""
    duration_s: float
    """From the first request sent to the last answer."""
    concurrency: int
    """Requests under way at once."""
    resumed: int
    """Answers reused from an earlier run."""
    retried: int
    """Requests that failed and were answered on a retry."""


class Metric(Frozen):
    """One aggregated figure as lm-eval computes it, 0 to 1 unless its name says otherwise."""

    name: str
    value: float
    stderr: float | None


class TaskScore(Frozen):
    """One accuracy task on one running server."""

    variant: Variant
    engine: str
    task: str
    key: str
    """Digest of everything that the score depends on; a score with the same key is reused."""
    status: Status
    reasons: tuple[str, ...]
    metrics: tuple[Metric, ...]
    n_items: int
    num_fewshot: int | None
    limit: int | None
    chat_template: bool
    thinking: bool | None = None
    """Whether the chat template enabled reasoning; None without a chat template."""
    max_gen_toks: int | None = None
    """Cap on answers, tokens; None for the task's own."""
    sampling: Mode | None = None
    """How the tokens of answers were sampled; None for the task's own way, which is greedy by default."""
    context_length: int | None = None
    """Longest prompt plus answer that was served, tokens; None if it was not recorded."""
    yarn: Yarn | None = None
    """How the model's positions were stretched to that."""
    repeat: int = 0
    """0 for the score itself; 1 for the same items again in another order, which shows what differs by chance."""
    task_versions: dict[str, str]
    counts: dict[str, int]
    """Number of items with each `Problem`."""
    work: Work | None = None
    duration_s: float
    items: tuple[ItemOutcome, ...]

    @property
    def valid(self) -> bool:
        """Whether its metrics count; those of an emulated score do, for the weights are really quantized."""
        return self.status in ("ok", "emulated")

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        return upgrade_score(data)


class Failure(Frozen):
    """An error that ended a stage, a cell or a task."""

    stage: str
    message: str


class Environment(Frozen):
    """The machine and software of a run."""

    hostname: str
    os: str
    python: str
    cpu: str
    cpu_cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    packages: dict[str, str]
    variables: dict[str, str]
    """Environment variables that change speed, e.g. OMP_NUM_THREADS."""
    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    """Event loop of the measuring client; records without this field were all measured on uvloop."""
    git_commit: str | None
    git_dirty: bool | None


class RunRecord(Frozen):
    """One run: one variant on one engine."""

    schema_version: Literal[6] = SCHEMA_VERSION
    run_id: str
    session: str
    """Runs of one command share a session; its report shows them together."""
    variant: Variant
    key: str
    command: tuple[str, ...]
    """The overrides as typed; ``python -m bench.run`` with them repeats the run."""
    spec: RecordedSpec
    environment: Environment
    engine: str
    engine_info: KeptInfo
    """Version and resolved arguments as the server reported them."""
    server: ServerFacts | None = None
    device: Device | None = None
    """The physical limit; None where the device is not known."""
    dollars_per_hour: float | None = None
    """Price of the whole machine, as given by the user."""
    checkpoint: Manifest | None
    cells: tuple[SpeedCell, ...] = ()
    control: Control | None = None
    scores: tuple[TaskScore, ...] = ()
    failures: tuple[Failure, ...] = ()
    stage_durations_s: dict[str, float] = Field(default_factory=dict)
    log: tuple[str, ...] = ()
    """Decisions, one sentence each: what was reused or skipped, and why."""
    started_at: str
    finished_at: str | None

    def control_of(self, cell: SpeedCell) -> Control | None:
        """Return the run's control if a cell is one of the control's; None for the run's own cells."""
        if self.control is None:
            return None
        in_control = cell.variant != self.variant or any(cell is control_cell for control_cell in self.control.cells)
        return self.control if in_control else None

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        return upgrade_record(data)
