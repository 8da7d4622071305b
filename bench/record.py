"""What a run leaves behind: frozen values, written once, read by everything after.

Raw observations are kept (arrival time of every token event, outcome of every item); summaries are computed from
them by :mod:`bench.speed.metrics` and never stored alone.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from quantize.checkpoint import Manifest
from quantize.key import Frozen

SCHEMA_VERSION: Literal[2] = 2

Status = Literal["ok", "emulated", "invalid", "not_supported", "failed"]

STATUS_MEANING: dict[Status, str] = {
    "ok": "Measured, and every validity check passed.",
    "emulated": (
        "Ran and passed every check, but not on quantized kernels: this engine computes with weights expanded back "
        "to 16 bits. Accuracy counts; the speed says nothing about the variant and enters no comparison."
    ),
    "invalid": "Ran, but a validity check failed: the reason stands beside it and no figure is printed.",
    "not_supported": "Known to be impossible before any time was spent, for example longer than the model's context.",
    "failed": "An error stopped it; the error stands beside it.",
}


class Variant(Frozen):
    """One model in one quantization, by the names of their config files."""

    model: str
    quant: str


class RequestTrace(Frozen):
    """One streamed request as the client saw it. Times are nanoseconds of one monotonic clock."""

    start_ns: int
    """When the request's first byte was about to be sent, since the trial began."""
    event_ns: tuple[int, ...]
    """Arrival of each event that carried tokens, since ``start_ns``."""
    event_tokens: tuple[int, ...]
    """How many tokens each of those events carried (an event is not a token)."""
    end_ns: int
    """When the stream ended, since ``start_ns``."""
    prompt_tokens: int | None
    """The server's own count; None if it never told."""
    completion_tokens: int | None
    cached_tokens: int | None
    finish_reason: str | None
    error: str | None


class Trial(Frozen):
    """One wave of ``concurrency`` requests, sent together after a cache flush."""

    requests: tuple[RequestTrace, ...]
    started_at: str
    """UTC, ISO 8601; for people, never for durations."""
    peak_memory_bytes: int | None
    """Highest resident memory of the server's process tree seen during the trial."""


class SpeedCell(Frozen):
    """All trials of one shape."""

    variant: Variant
    engine: str
    input_len: int
    output_len: int
    concurrency: int
    seed: int
    status: Status
    reasons: tuple[str, ...]
    """Why the status is not ``ok``; empty when it is."""
    trials: tuple[Trial, ...]


class ItemOutcome(Frozen):
    """One benchmark item, enough to pair it with the same item of another variant."""

    task: str
    """The leaf task, e.g. one MMLU subject."""
    doc_id: int
    doc_hash: str
    prompt_hash: str
    target: str
    answer: str
    """What the model said: the generated text, or the picked choice's index."""
    logprobs: tuple[float, ...]
    """Log-probability of each choice, nats; empty for generated answers."""
    metrics: dict[str, float]


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
    """Digest of everything the score depends on; a score with the same key is reused."""
    status: Status
    reasons: tuple[str, ...]
    metrics: tuple[Metric, ...]
    n_items: int
    num_fewshot: int | None
    limit: int | None
    chat_template: bool
    task_versions: dict[str, str]
    counts: dict[str, int]
    """Answers that need a look: ``truncated``, ``empty``, ``over_long``."""
    seconds: float
    items: tuple[ItemOutcome, ...]


class Failure(Frozen):
    """Something that stopped a stage, a cell or a task."""

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
    git_commit: str | None
    git_dirty: bool | None


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1 as one of schema 2, whose manifest tells more about calibration and proof."""
    made = record.get("checkpoint")
    if made is None:
        return {**record, "schema_version": 2}
    more: dict[str, Any] = {"format": None, "experts_reached": None, "layer_errors": [], "canaries": None}
    unknown: dict[str, Any] = {
        "source": "not recorded",
        "enable_thinking": None,
        "chat_template_sha256": None,
        "sample_sha256": [],
    }
    calibration = {**unknown, **made["calibration"]} if made["calibration"] else None
    proof = {"proof_seconds": 0.0, "proof_peak_rss_bytes": 0}
    return {**record, "schema_version": 2, "checkpoint": {**more, **proof, **made, "calibration": calibration}}


UPGRADES = {1: _from_1}
"""By schema version: what makes the next one of a record. Records on disk stay as they are."""


class RunRecord(Frozen):
    """One run: one variant on one engine."""

    schema_version: Literal[2] = SCHEMA_VERSION
    run_id: str
    session: str
    """Runs of one command share a session; its report shows them together."""
    variant: Variant
    key: str
    command: tuple[str, ...]
    """The overrides that were typed; with ``python -m bench.run`` before them they repeat the run."""
    spec: dict[str, Any]
    environment: Environment
    engine: str
    engine_info: dict[str, Any]
    """Version and resolved arguments as the server told them."""
    checkpoint: Manifest | None
    cells: tuple[SpeedCell, ...] = ()
    scores: tuple[TaskScore, ...] = ()
    failures: tuple[Failure, ...] = ()
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    log: tuple[str, ...] = ()
    """Decisions in words: what was reused and why, what was skipped and why."""
    started_at: str
    finished_at: str | None

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, data: Any) -> Any:
        while isinstance(data, dict) and (upgrade := UPGRADES.get(data.get("schema_version", SCHEMA_VERSION))):
            data = upgrade(data)
        return data
