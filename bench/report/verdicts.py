"""Every score compared with that of its BF16 run: the verdicts, noise floors and engines of one report. Pure functions.

All comparisons of a report are judged together, because the more there are, the more look bad by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from bench.analysis.damage import TwoByTwo, two_by_two
from bench.analysis.judgement import Pair, is_reused, judge_family
from bench.analysis.paired import Comparison, compare, obstacle
from bench.analysis.verdict import Kind, Verdict
from bench.messages.message import Message, Words, msg
from bench.records.margin import Margin, applicable_margin
from bench.records.record import RunRecord, TaskScore
from bench.report.view import Run, runs, score_of, tasks

VERDICT: dict[Kind, Message] = {
    "worse": msg("verdict.worse"),
    "non-inferior": msg("verdict.non_inferior"),
    "inconclusive": msg("verdict.inconclusive"),
}
VERDICT_MEANING: dict[Kind, Message] = {
    "worse": msg("verdict.worse.meaning"),
    "non-inferior": msg("verdict.non_inferior.meaning"),
    "inconclusive": msg("verdict.inconclusive.meaning"),
}


@dataclass(frozen=True)
class Judged:
    """One variant's score of one task, compared with BF16's."""

    run: Run
    score: TaskScore
    verdict: Verdict | None
    obstacle: Words
    """Why there is no verdict; empty if there is one."""


@dataclass(frozen=True)
class Verdicts:
    """Every score compared with BF16's, and the margin that applies to all of them."""

    margin: Margin | None
    """None if no run has a score and no margin was given."""
    judged: tuple[Judged, ...]


@dataclass(frozen=True)
class NoiseFloor:
    """BF16 against itself: the same items asked again in another order."""

    run: Run
    score: TaskScore
    """The repeated score."""
    comparison: Comparison | None
    obstacle: Words
    """Why they are not compared; empty if they are."""


@dataclass(frozen=True)
class OnEngines:
    """BF16 and a variant on two engines."""

    variant: str
    """Model and quantization."""
    task: str
    table: TwoByTwo | None
    obstacle: Words
    """Why there is no table; empty if there is one."""


def _compare(baseline: TaskScore, score: TaskScore) -> tuple[Comparison | None, Words]:
    """Return the comparison, or why there is none."""
    comparison = compare(baseline, score)
    return comparison, "" if comparison else obstacle(baseline, score) or ""


def _pair(run: Run, score: TaskScore) -> Pair:
    """Return a score with BF16's, where there is one."""
    before = again = None
    if run.baseline is not None:
        before, again = score_of(run.baseline, score.task), score_of(run.baseline, score.task, repeat=1)
    return Pair(run=run.record, score=score, baseline=before, repeat=again)


def _no_baseline(run: Run, task: str) -> Message:
    """Return why there is no score of BF16 to compare with."""
    if run.baseline is not None:
        return msg("obstacle.no_bf16_score", task=task)
    variant = run.record.variant
    command = f"-m quant=bf16,{variant.quant}"
    return msg("obstacle.no_bf16", model=variant.model, engine=run.record.engine, command=command)


def _is_baselines(run: Run, score: TaskScore) -> bool:
    """Return whether a score is BF16's own, or a reuse of it."""
    before = score_of(run.baseline, score.task) if run.baseline else None
    return is_reused(before, score) if before else run.baseline is None and not run.quantized


class _Same:
    """A cache key of records, compared by identity: their items are too many to hash."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.records = tuple(records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and [*map(id, self.records)] == [*map(id, other.records)]

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.records)))


def judged(records: Sequence[RunRecord]) -> tuple[Judged, ...]:
    """Return every score of a variant with its verdict, runs and tasks in the order of the page.

    A BF16 run is judged too where another BF16 run is the baseline and has answers of its own.
    """
    return verdicts(records).judged


def verdicts(records: Sequence[RunRecord], given: float | None = None) -> Verdicts:
    """Return what :func:`judged` does, and the margin of its verdicts.

    Args:
        records: all runs of the report.
        given: margin that takes precedence over those that the runs declare, of 1.
    """
    return _verdicts(_Same(records), given)


@lru_cache(maxsize=1)
def _verdicts(same: _Same, given: float | None) -> Verdicts:
    """Compute :func:`verdicts` once: several sections need it, and it takes seconds for large tasks."""
    scores = [
        (run, score)
        for run in runs(same.records)
        for task in tasks(same.records)
        if (score := run.score(task)) is not None and not _is_baselines(run, score)
    ]
    pairs = [_pair(run, score) for run, score in scores]
    judgement = judge_family(pairs, given)
    return Verdicts(
        # Where nothing is compared, as with BF16 alone, the margin is that of the runs that have scores.
        margin=judgement.margin or applicable_margin([record for record in same.records if record.scores], given),
        judged=tuple(
            Judged(run, score, outcome.verdict, outcome.obstacle if pair.baseline else _no_baseline(run, score.task))
            for (run, score), pair, outcome in zip(scores, pairs, judgement.outcomes, strict=True)
        ),
    )


def noise_floors(records: Sequence[RunRecord]) -> tuple[NoiseFloor, ...]:
    """Return every score that was repeated."""
    floors = []
    for run in runs(records):
        for task in tasks(records):
            first, second = run.score(task), score_of(run.record, task, repeat=1)
            if first is not None and second is not None:
                floors.append(NoiseFloor(run, second, *_compare(first, second)))
    return tuple(floors)


def on_engines(records: Sequence[RunRecord]) -> tuple[OnEngines, ...]:
    """Return every variant and task that was scored together with BF16 on two engines, for each pair of engines."""
    places: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs(records):
        if run.baseline is not None and run.quantized:
            variant = run.record.variant
            places.setdefault((variant.model, variant.quant), {}).setdefault(run.record.engine, run)
    comparisons = []
    for (model, quant), by_engine in places.items():
        for engine, other in combinations(sorted(by_engine), 2):
            for task in tasks(records):
                first, second = by_engine[engine], by_engine[other]
                scores = first.baseline_score(task), first.score(task), second.baseline_score(task), second.score(task)
                if all(scores):
                    comparisons.append(_on_engines(f"{model} {quant}", task, *(score for score in scores if score)))
    return tuple(comparisons)


def _on_engines(variant: str, task: str, *scores: TaskScore) -> OnEngines:
    why = next((reason for other in scores[1:] if (reason := obstacle(scores[0], other))), None)
    table = None if why else two_by_two(*scores)
    return OnEngines(variant, task, table, why or ("" if table else msg("obstacle.no_common_item")))
