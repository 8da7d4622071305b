"""Every score beside that of its BF16 run: the verdicts of one report, its noise floors, and its engines. Pure.

All comparisons of a report are judged together, for the more of them there are, the more look bad by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from bench.analysis.damage import TwoByTwo, two_by_two
from bench.analysis.paired import Comparison, compare, obstacle
from bench.analysis.verdict import Kind, Verdict, judge
from bench.records.margin import applied
from bench.records.record import RunRecord, TaskScore
from bench.report.view import Run, runs, score_of, tasks

VERDICT_MEANING: dict[Kind, str] = {
    "worse": "The loss against BF16 is more than chance allows, and not surely inside the margin.",
    "non-inferior": "Any loss against BF16 is surely smaller than the margin, which was set beforehand.",
    "inconclusive": "Neither: a loss is possible and none is proven. It does not mean equal.",
}


@dataclass(frozen=True)
class Judged:
    """One variant's score of one task beside BF16's."""

    run: Run
    score: TaskScore
    verdict: Verdict | None
    obstacle: str
    """Why there is no verdict; empty where there is one."""


@dataclass(frozen=True)
class NoiseFloor:
    """BF16 against itself: the same items asked again in another order."""

    run: Run
    score: TaskScore
    """The second time."""
    comparison: Comparison | None
    obstacle: str
    """Why they are not compared; empty where they are."""


@dataclass(frozen=True)
class OnEngines:
    """BF16 and a variant on two engines."""

    variant: str
    """Model and quantization."""
    task: str
    table: TwoByTwo | None
    obstacle: str
    """Why there is no table; empty where there is one."""


def margin_of(record: RunRecord) -> float:
    """Return the margin by which a run is judged on its own, of 1."""
    return applied([record]).value


def _compare(baseline: TaskScore, score: TaskScore, again: TaskScore | None = None) -> tuple[Comparison | None, str]:
    """Return the comparison, or why there is none."""
    found = compare(baseline, score, again)
    return found, "" if found else obstacle(baseline, score) or ""


def _beside_baseline(run: Run, score: TaskScore) -> tuple[Comparison | None, str]:
    """Return a score's comparison with BF16's, or why there is none."""
    variant, task = run.record.variant, score.task
    if run.baseline is None:
        missing = f"no BF16 run of {variant.model} on {run.record.engine} in this report"
        return None, f"{missing}; name it in the same command: -m quant=bf16,{variant.quant}"
    before = score_of(run.baseline, task)
    if before is None:
        return None, f"the BF16 run has no score of {task}"
    return _compare(before, score, score_of(run.baseline, task, repeat=1))


def _is_baselines(run: Run, score: TaskScore) -> bool:
    """Tell whether a score is BF16's own, or that one used again."""
    before = score_of(run.baseline, score.task) if run.baseline else None
    return before.key == score.key if before else run.baseline is None and not run.quantized


class _Same:
    """A sequence of records as a key that is equal only to the very same records: their items are too many to hash."""

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
    return _judged(_Same(records))


@lru_cache(maxsize=1)
def _judged(same: _Same) -> tuple[Judged, ...]:
    """Return what :func:`judged` does; several sections need it, and it takes seconds for large tasks."""
    found = []
    for run in runs(same.records):
        for task in tasks(same.records):
            score = run.score(task)
            if score is not None and not _is_baselines(run, score):
                found.append((run, score, *_beside_baseline(run, score)))
    verdicts: dict[int, Verdict] = {}
    for margin in dict.fromkeys(margin_of(run.record) for run, *_ in found):
        chosen = {
            place: comparison
            for place, (run, _, comparison, _) in enumerate(found)
            if comparison is not None and margin_of(run.record) == margin
        }
        verdicts |= zip(chosen, judge(tuple(chosen.values()), margin), strict=True)
    return tuple(Judged(run, score, verdicts.get(place), why) for place, (run, score, _, why) in enumerate(found))


def noise_floors(records: Sequence[RunRecord]) -> tuple[NoiseFloor, ...]:
    """Return every score that was made a second time."""
    found = []
    for run in runs(records):
        for task in tasks(records):
            first, second = run.score(task), score_of(run.record, task, repeat=1)
            if first is not None and second is not None:
                found.append(NoiseFloor(run, second, *_compare(first, second)))
    return tuple(found)


def on_engines(records: Sequence[RunRecord]) -> tuple[OnEngines, ...]:
    """Return every variant and task that was scored on two engines, BF16 beside it on both; each pair of engines."""
    places: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs(records):
        if run.baseline is not None and run.quantized:
            variant = run.record.variant
            places.setdefault((variant.model, variant.quant), {}).setdefault(run.record.engine, run)
    found = []
    for (model, quant), by_engine in places.items():
        for one, two in combinations(sorted(by_engine), 2):
            for task in tasks(records):
                first, second = by_engine[one], by_engine[two]
                scores = first.baseline_score(task), first.score(task), second.baseline_score(task), second.score(task)
                if all(scores):
                    found.append(_on_engines(f"{model} {quant}", task, *(score for score in scores if score)))
    return tuple(found)


def _on_engines(variant: str, task: str, *scores: TaskScore) -> OnEngines:
    why = next((text for other in scores[1:] if (text := obstacle(scores[0], other))), "")
    table = None if why else two_by_two(*scores)
    return OnEngines(variant, task, table, why if table or why else "no item that all four have")
