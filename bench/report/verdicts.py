"""Every score beside that of its BF16 run: the verdicts of one report, its noise floors, and its engines. Pure.

All comparisons of a report are judged together, for the more of them there are, the more look bad by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from bench.analysis.damage import TwoByTwo, two_by_two
from bench.analysis.paired import Comparison, compare, obstacle
from bench.analysis.verdict import MARGIN, Kind, Verdict, judge
from bench.record import RunRecord, TaskScore
from bench.report.view import Run, runs, tasks

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
    baseline: TaskScore | None
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


def margin_of(record: RunRecord) -> float:
    """Return the loss that a run counts as none; older records do not tell theirs."""
    return float(record.spec.get("accuracy", {}).get("margin", MARGIN))


def _baseline_of(run: Run, score: TaskScore) -> tuple[TaskScore | None, str]:
    """Return BF16's score of the same task, and why nothing is compared with it, empty if it is."""
    variant = run.record.variant
    if run.baseline is None:
        return None, f"no BF16 run of {variant.model} on {run.record.engine} in this report"
    before = next((one for one in run.baseline.scores if one.task == score.task and not one.repeat), None)
    if before is None:
        return None, f"the BF16 run has no score of {score.task}"
    return before, obstacle(before, score) or ""


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
    found: list[tuple[Judged, Comparison | None]] = []
    for run in runs(same.records):
        for task in tasks(same.records):
            score = run.score(task)
            if score is None or (run.baseline is None and not run.quantized):
                continue
            before, why = _baseline_of(run, score)
            if before is not None and before.key == score.key:
                continue  # BF16's own answers, used again
            again = run.baseline_repeat(task)
            comparison = compare(before, score, again) if before is not None and not why else None
            found.append((Judged(run, score, before, None, why), comparison))
    verdicts: dict[int, Verdict] = {}
    for margin in dict.fromkeys(margin_of(one.run.record) for one, _ in found):
        chosen = {
            place: comparison
            for place, (one, comparison) in enumerate(found)
            if comparison is not None and margin_of(one.run.record) == margin
        }
        verdicts |= zip(chosen, judge(tuple(chosen.values()), margin), strict=True)
    return tuple(
        Judged(one.run, one.score, one.baseline, verdicts.get(place), one.obstacle)
        for place, (one, _) in enumerate(found)
    )


def noise_floors(records: Sequence[RunRecord]) -> tuple[NoiseFloor, ...]:
    """Return every score that was made a second time."""
    found = []
    for run in runs(records):
        for score in run.record.scores:
            before = run.score(score.task)
            if score.repeat and before is not None:
                why = obstacle(before, score) or ""
                found.append(NoiseFloor(run, score, None if why else compare(before, score), why))
    return tuple(found)


def engine_pairs(records: Sequence[RunRecord]) -> tuple[tuple[str, TwoByTwo | str], ...]:
    """Return (the variant's label, its means on two engines or why there are none) where BF16 and variant ran on both.

    One for each model, variant, task and pair of engines.
    """
    places: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs(records):
        if run.baseline is not None and run.quantized:
            by_engine = places.setdefault((run.record.variant.model, run.record.variant.quant), {})
            by_engine.setdefault(run.record.engine, run)
    found: list[tuple[str, TwoByTwo | str]] = []
    several = len({model for model, _ in places}) > 1
    for (model, quant), by_engine in places.items():
        for (_, one), (_, two) in combinations(sorted(by_engine.items()), 2):
            for task in tasks(records):
                four = (one.baseline_score(task), one.score(task), two.baseline_score(task), two.score(task))
                first, variant_1, second, variant_2 = four
                if first is None or variant_1 is None or second is None or variant_2 is None:
                    continue
                label = f"{model} {quant}" if several else quant
                others = (variant_1, second, variant_2)
                why = next((text for other in others if (text := obstacle(first, other))), None)
                table = two_by_two(first, variant_1, second, variant_2)
                found.append((label, table or f"{task}: {why or 'no item that all four have'}"))
    return tuple(found)
