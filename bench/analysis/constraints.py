"""Rank variants by one goal; variants that meet all constraints come first. Pure functions.

A constraint is met if the whole interval of the figure meets it. If only the median does, the variant is undecided, and
is recommended only if no variant meets every constraint with confidence. A figure that was not measured, or only
emulated, meets no constraint on speed or memory.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Literal

from bench.errors import ConfigError
from bench.messages.message import Worded, Words, linked, msg
from bench.records.margin import Margin, parse_margin
from bench.records.record import RunRecord, SpeedCell
from bench.records.words import STATUS
from bench.speed.figures import measured_cell
from bench.speed.metrics import CellSummary, Interval
from quantize.key import Frozen

Relation = Literal["<=", ">="]
Answer = Literal["kept", "unsure", "broken", "not known"]
FIGURES: dict[str, tuple[Callable[[CellSummary], Interval | None], str]] = {
    "ttft": (lambda summary: summary.ttft_s, "s"),
    "tpot": (lambda summary: summary.tpot_s, "s"),
    "decode": (lambda summary: summary.decode_tokens_per_s, "tokens/s"),
    "prefill": (lambda summary: summary.prefill_tokens_per_s, "tokens/s"),
    "throughput": (lambda summary: summary.output_tokens_per_s, "tokens/s"),
}
"""{word: (figure of a measured cell, unit)}."""
UNITS = {
    "s": {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6},
    "tokens/s": {"": 1.0, "tok/s": 1.0, "tokens/s": 1.0},
    "bytes": {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "mib": 2.0**20, "gib": 2.0**30},
    "of 1": {"": 1.0, "%": 0.01, "pp": 0.01},
}
NEAR = 0.1
"""Largest relative difference between a measured input length and the requested one: 30k also means 30,720."""
EXAMPLES = "memory<=24GB, size<=10GB, ttft@30k<=2s, tpot@1k<=50ms, decode@30k>=20, mmlu>=0.6, accuracy_margin=1pp"


class Need(Frozen):
    """One constraint."""

    text: str
    """As typed."""
    subject: str
    """One of ``FIGURES``, ``memory``, ``size``, ``accuracy_margin``, or an accuracy task."""
    input_len: int | None
    concurrency: int | None
    relation: Relation
    bound: float
    """Seconds, tokens per second, bytes, or of 1."""


class Held(Frozen):
    """One variant's answer to one constraint."""

    need: Need
    answer: Answer
    reason: Worded


class Candidate(Frozen):
    """One run with its figures and its answers to the constraints."""

    run_id: str
    label: str
    held: tuple[Held, ...]
    goal: Interval | None
    """The figure to optimize."""
    accuracy: Interval | None
    """Mean change against BF16 over all tasks, of 1; 0 for BF16 itself. None if a task has no verdict."""
    gaps: tuple[Worded, ...]
    """The tasks without a verdict, each with the reason."""

    @property
    def standing(self) -> Answer:
        """The worst answer to any constraint."""
        return worst([held.answer for held in self.held])

    @property
    def why_not(self) -> tuple[str, ...]:
        """The constraints that are not met with confidence, each with the reason."""
        return tuple(f"{held.need.text}: {held.reason}" for held in self.held if held.answer != "kept")


class Decision(Frozen):
    """All variants: the ranked ones, and those that cannot be recommended."""

    goal: Worded
    """In words."""
    subject: str
    """The goal's figure, by its name in constraints."""
    lower_is_better: bool
    margin: Margin | None
    """The margin of the accuracy verdicts; None if no run has a score and none is given."""
    ranked: tuple[Candidate, ...]
    """Variants that may be used: first those that meet every constraint with confidence, best goal first."""
    fallen: tuple[Candidate, ...]
    """Variants for which a constraint cannot be judged, then those that violate one."""
    front: tuple[str, ...]
    """Run ids of the Pareto front of goal and accuracy."""

    @property
    def recommended(self) -> Candidate | None:
        """The best variant; None if no variant may be used, or if accuracy was not judged."""
        return self.ranked[0] if self.ranked and self.margin else None


def worst(answers: Sequence[Answer]) -> Answer:
    """Return the worst of several answers; ``kept`` if there are none."""
    order: tuple[Answer, ...] = ("broken", "not known", "unsure")
    return next((answer for answer in order if answer in answers), "kept")


def tokens(text: str) -> int:
    """Return a number of tokens such as ``30k`` or ``1024``.

    Raises:
        ValueError: the text is not a number of tokens, or is 0.
    """
    match = re.fullmatch(r"(\d+)([kK]?)", text)
    if not match or not int(match[1]):
        raise ValueError(text)
    return int(match[1]) * (1000 if match[2] else 1)


def parse(text: str, tasks: Sequence[str]) -> Need:
    """Parse a constraint.

    Args:
        text: such as ``ttft@30k<=2s``; ``@30k/8`` means a concurrency of 8.
        tasks: known accuracy tasks.

    Raises:
        ConfigError: the text is not a valid constraint.
    """
    hint = f"write {EXAMPLES}"
    match = re.fullmatch(r"([\w\-]+)(?:@(\d+[kK]?)(?:/(\d+))?)?\s*(<=|>=|<|>|=)\s*([\d.]+)\s*([\w%/]*)", text.strip())
    if not match:
        raise ConfigError(f"'{text}' is not a constraint; {hint}")
    subject, length, concurrency, relation, number, unit = match.groups()
    kind = _kind(subject, tasks)
    if kind is None:
        known = ", ".join((*FIGURES, "memory", "size", "accuracy_margin", *tasks))
        raise ConfigError(f"'{text}': nothing is called '{subject}'; known: {known}")
    scale = UNITS[kind].get(unit.lower())
    if scale is None:
        units = ", ".join(name for name in UNITS[kind] if name)
        raise ConfigError(f"'{text}': '{unit}' is not a unit of {subject}; known: {units or 'none'}")
    try:
        bound = float(number) * scale
        at = tokens(length) if length else None
    except ValueError:
        raise ConfigError(f"'{text}': that is not a number; {hint}") from None
    if subject == "accuracy_margin":
        try:
            bound = parse_margin(f"{number}{unit}", f"{subject}=")
        except ValueError as error:
            raise ConfigError(f"{subject}{relation}{error}") from None
    if subject in FIGURES and at is None:
        raise ConfigError(f"'{text}': say at which input length: {subject}@30k{relation}{number}{unit}")
    if concurrency and not int(concurrency):
        raise ConfigError(f"'{text}': the concurrency after / is at least 1")
    if at is not None and subject not in FIGURES:
        raise ConfigError(f"'{text}': {subject} has no input length; {hint}")
    wanted = "<=" if subject == "accuracy_margin" or relation in ("<", "<=") else ">="
    if relation == "=" and subject != "accuracy_margin":
        raise ConfigError(f"'{text}': write <= or >=; {hint}")
    return Need.model_validate(
        {
            "text": text,
            "subject": subject,
            "input_len": at,
            "concurrency": int(concurrency) if concurrency else None,
            "relation": wanted,
            "bound": bound,
        }
    )


def _kind(subject: str, tasks: Sequence[str]) -> str | None:
    if subject in FIGURES:
        return FIGURES[subject][1]
    if subject in ("memory", "size"):
        return "bytes"
    return "of 1" if subject == "accuracy_margin" or subject in tasks else None


def cell_near(record: RunRecord, input_len: int, concurrency: int | None) -> SpeedCell | None:
    """Return the closed loop whose input length is nearest to the requested one; None if none is within ``NEAR``."""
    near = [
        cell
        for cell in record.cells
        if cell.request_rate_per_s is None
        and abs(cell.input_len - input_len) <= NEAR * input_len
        and (concurrency is None or cell.concurrency == concurrency)
    ]
    return min(near, key=lambda cell: (abs(cell.input_len - input_len), cell.concurrency), default=None)


def figure_of(record: RunRecord, need: Need) -> Interval | Words:
    """Return the figure that a constraint is about, or why there is none."""
    if need.subject == "size":
        checkpoint = record.checkpoint
        return _exact(checkpoint.checkpoint_bytes) if checkpoint else msg("need.no_checkpoint")
    if need.subject == "memory":
        return _memory(record)
    if need.subject not in FIGURES:
        return _score(record, need.subject)
    near = cell_near(record, need.input_len or 0, need.concurrency)
    if near is None:
        loads = sorted({(cell.input_len, cell.concurrency if need.concurrency else 0) for cell in record.cells})
        places = ", ".join(f"{length:,}" + (f"/{requests}" if requests else "") for length, requests in loads)
        return msg("need.not_measured_there", measured=places or msg("need.nothing"))
    cell = measured_cell(near)
    if cell is None:
        return msg("need.cell_is", status=STATUS[near.status])
    figure_in, _ = FIGURES[need.subject]
    return figure_in(cell.summary) or msg("need.not_defined_there")


def _exact(value: float) -> Interval:
    return Interval(median=value, low=value, high=value, n=1)


def _memory(record: RunRecord) -> Interval | Words:
    """Return the highest memory of the server in any measured cell."""
    cells = [cell for each in record.cells if (cell := measured_cell(each))]
    peaks = [cell.summary.peak_memory_bytes for cell in cells if cell.summary.peak_memory_bytes]
    if peaks:
        return _exact(max(peaks))
    states = sorted({cell.status for cell in record.cells})
    if not states:
        return msg("need.no_speed")
    return msg("need.cells_are", statuses=linked(STATUS[state] for state in states))


def _score(record: RunRecord, task: str) -> Interval | Words:
    score = next((candidate for candidate in record.scores if candidate.task == task and not candidate.repeat), None)
    if score is None or not score.valid or not score.metrics:
        return msg("need.score_is", status=STATUS[score.status]) if score else msg("need.not_scored")
    main = score.metrics[0]
    half = 1.96 * (main.stderr or 0.0)  # 95 % of a normal distribution
    return Interval(median=main.value, low=main.value - half, high=main.value + half, n=score.n_items)


def hold(figure: Interval | Words, need: Need, show: Callable[[float], str]) -> Held:
    """Compare a figure with the bound of a constraint."""
    if not isinstance(figure, Interval):
        return Held(need=need, answer="not known", reason=figure)
    sign = 1 if need.relation == "<=" else -1
    worst_case = figure.high if sign == 1 else figure.low
    shown = f"{show(figure.median)}"
    if figure.low != figure.high:
        shown += f" ({show(figure.low)} – {show(figure.high)})"
    if sign * worst_case <= sign * need.bound:
        return Held(need=need, answer="kept", reason=shown)
    within = sign * figure.median <= sign * need.bound
    return Held(need=need, answer="unsure" if within else "broken", reason=shown)


def front(points: Sequence[tuple[str, float, float]]) -> tuple[str, ...]:
    """Return the names of the points on the Pareto front: no other is at least as high in both and higher in one."""
    return tuple(name for name, x, y in points if not any(a >= x and b >= y and (a, b) != (x, y) for _, a, b in points))


def decide(
    goal: Words, subject: str, candidates: Sequence[Candidate], *, lower_is_better: bool, margin: Margin | None
) -> Decision:
    """Rank the candidates.

    Args:
        goal: description of ``Candidate.goal``.
        subject: the goal's name in constraints.
        candidates: every variant, with its answers.
        lower_is_better: whether a lower goal is better.
        margin: the margin of the accuracy verdicts; None if accuracy was not judged.
    """

    def merit(figure: Interval) -> float:
        return -figure.median if lower_is_better else figure.median

    def order(candidate: Candidate) -> tuple[bool, float, float, str]:
        return (
            candidate.standing == "unsure",
            -merit(candidate.goal) if candidate.goal else math.inf,
            -(candidate.accuracy.median if candidate.accuracy else -1.0),
            candidate.label,
        )

    placed = [
        (candidate.run_id, merit(candidate.goal), candidate.accuracy.median)
        for candidate in candidates
        if candidate.goal and candidate.accuracy
    ]
    return Decision(
        goal=goal,
        subject=subject,
        lower_is_better=lower_is_better,
        margin=margin,
        ranked=tuple(
            sorted((candidate for candidate in candidates if candidate.standing in ("kept", "unsure")), key=order)
        ),
        fallen=tuple(
            candidate for answer in ("not known", "broken") for candidate in candidates if candidate.standing == answer
        ),
        front=front(placed),
    )


def longest_common(records: Sequence[RunRecord]) -> tuple[int, int] | None:
    """Return (input length, concurrency) of the longest closed loop with a decode speed in every run."""
    shapes = [{(cell.input_len, cell.concurrency) for cell in record.cells if _decodes(cell)} for record in records]
    common = set.intersection(*shapes) if shapes else set()
    return max(common, key=lambda shape: (shape[0], -shape[1]), default=None)


def _decodes(cell: SpeedCell) -> bool:
    """Whether a cell is a measured closed loop with a decode speed."""
    figures = measured_cell(cell)
    return cell.request_rate_per_s is None and figures is not None and figures.summary.decode_tokens_per_s is not None
