"""Compare two sets of runs: every speed cell and every task that both have. Pure functions.

Speeds are comparable only under the same conditions, so the result lists the conditions that differ. If both cells have
a control, a baseline whose trials were interleaved with theirs, the ratio is that of the two cells' shares of their
controls: the controls cancel out how fast the machine was at that time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from bench.analysis.baseline import cell_under_same_load, control_cell, paired_runs
from bench.analysis.judgement import Outcome, Pair, judge_family
from bench.analysis.speedup import MIN_TRIALS, Speedup, ratio_of_medians, speedup
from bench.analysis.verdict import Verdict
from bench.messages.message import Worded
from bench.records.margin import Margin
from bench.records.record import RequestTrace, RunRecord, SpeedCell, TaskScore, Variant
from bench.speed.figures import MeasuredCell, measured_cell, per_trial
from bench.speed.metrics import Interval, tpot_s, ttft_s
from bench.speed.shapes import Shape, shape_of
from quantize.key import Frozen, canonical_json

Figure = Literal["TTFT", "TPOT"]
FIGURES: dict[Figure, Callable[[RequestTrace], float | None]] = {"TTFT": ttft_s, "TPOT": tpot_s}


class ConditionDifference(Frozen):
    """A condition in which two runs differ."""

    what: str
    one: str
    other: str

    def __str__(self) -> str:
        """Return the condition and both of its values."""
        return f"{self.what}: {self.one} / {self.other}"


class CellPair(Frozen):
    """One figure of a shape that both runs have."""

    variants: tuple[Variant, Variant]
    shape: Shape
    figure: Figure
    medians_s: tuple[float | None, float | None]
    """Medians over trials; None for a cell that is not ``ok``, or without the figure."""
    ratio: Interval | None
    """Time of the first / time of the second: above 1, the second is faster."""
    kind: Literal["faster", "slower", "no difference seen", "not enough data", "not compared"]
    reason: str
    controlled: bool = False
    """Whether both speeds are taken as shares of their controls."""


class ScorePair(Frozen):
    """The scores of a task that both runs have."""

    variants: tuple[Variant, Variant]
    task: str
    values: tuple[float | None, float | None]
    """Scores, 0 to 1; None for one that is not valid."""
    verdict: Verdict | None
    reason: Worded


class RunComparison(Frozen):
    """All cells and tasks that two sets of runs have in common."""

    unlike: tuple[ConditionDifference, ...]
    """The differences in conditions that affect speed."""
    cells: tuple[CellPair, ...]
    margin: Margin | None
    """The margin of the verdicts; None if no task is in common and no margin is given."""
    scores: tuple[ScorePair, ...]


def _conditions(record: RunRecord) -> dict[str, str]:
    here = record.environment
    packages = {f"package {name}": version for name, version in here.packages.items() if name != "quantbench"}
    return {
        "machine": here.hostname,
        "CPU": f"{here.cpu}, {here.cpu_cores} cores",
        "GPUs": ", ".join(here.gpus) or "none",
        "engine": f"{record.engine} {record.server.version or '' if record.server else ''}".strip(),
        "engine's settings": canonical_json(record.spec.engine.model_dump()),
        "context": canonical_json(record.spec.context.model_dump()),
        "event loop of the client": here.event_loop,
        **{f"variable {name}": value for name, value in here.variables.items()},
        **packages,
    }


def unlike(first_run: RunRecord, second_run: RunRecord) -> tuple[ConditionDifference, ...]:
    """Return the conditions in which two runs differ; the variant is not one of them."""
    first, second = _conditions(first_run), _conditions(second_run)
    names = dict.fromkeys((*first, *second))
    return tuple(
        ConditionDifference(what=name, one=first.get(name, "none"), other=second.get(name, "none"))
        for name in names
        if first.get(name) != second.get(name)
    )


def _shares(record: RunRecord, cell: MeasuredCell, figure: Callable[[RequestTrace], float | None]) -> list[float]:
    """Return each trial's time as a multiple of its control's; empty where the two do not pair."""
    control = control_cell(record, cell.cell)
    own, controls = per_trial(cell, figure), per_trial(control, figure) if control else []
    if len(own) != len(controls):
        return []
    return [time / reference for time, reference in zip(own, controls, strict=True)]


def _cell_pairs(first: RunRecord, second: RunRecord) -> Iterator[CellPair]:
    for cell in first.cells:
        counterpart = cell_under_same_load(second.cells, cell)
        if counterpart is None:
            continue
        for name, figure in FIGURES.items():
            yield _cell_pair((first, cell), (second, counterpart), name, figure)


def _alone(cell: MeasuredCell) -> MeasuredCell:
    """Return a cell as if its trials were not interleaved: those of two runs never are with each other."""
    return MeasuredCell(cell.cell.model_copy(update={"interleaved": False}))


def _change(
    first: tuple[RunRecord, MeasuredCell],
    second: tuple[RunRecord, MeasuredCell],
    figure: Callable[[RequestTrace], float | None],
) -> tuple[Speedup | None, bool]:
    """Return how many times as fast the second is, and whether both are taken as shares of their controls."""
    shares = _shares(*first, figure), _shares(*second, figure)
    if shares[0] and shares[1]:
        return Speedup(ratio=ratio_of_medians(*shares), paired=False), True
    return speedup(_alone(first[1]), _alone(second[1]), figure), False


def _median_s(cell: MeasuredCell | None, figure: Callable[[RequestTrace], float | None]) -> float | None:
    times = per_trial(cell, figure) if cell else []
    return float(np.median(times)) if times else None


def _cell_pair(
    first: tuple[RunRecord, SpeedCell],
    second: tuple[RunRecord, SpeedCell],
    name: Figure,
    figure: Callable[[RequestTrace], float | None],
) -> CellPair:
    cells = first[1], second[1]
    before, after = map(measured_cell, cells)
    change, controlled = _change((first[0], before), (second[0], after), figure) if before and after else (None, False)
    if before is None or after is None:
        reason = f"a cell is {cells[0].status if before is None else cells[1].status}"
    elif change is None:
        reason = f"no {name} in both, or a server was saturated"
    elif change.ratio.n < MIN_TRIALS:
        reason = f"{change.ratio.n} trials, at least {MIN_TRIALS} are needed"
    else:
        reason = "shares of the interleaved controls" if controlled else "medians of trials"
    return CellPair.model_validate(
        {
            "variants": (cells[0].variant, cells[1].variant),
            "shape": shape_of(cells[0]),
            "figure": name,
            "medians_s": (_median_s(before, figure), _median_s(after, figure)),
            "ratio": change.ratio if change else None,
            "kind": change.verdict if change else "not compared",
            "reason": reason,
            "controlled": controlled,
        }
    )


def _value(score: TaskScore) -> float | None:
    return score.metrics[0].value if score.metrics and score.valid else None


def _common_scores(first: RunRecord, second: RunRecord) -> Iterator[tuple[TaskScore, TaskScore]]:
    by_task = {score.task: score for score in second.scores if not score.repeat}
    for score in first.scores:
        if not score.repeat and score.task in by_task:
            yield score, by_task[score.task]


def _score_pair(first: TaskScore, second: TaskScore, outcome: Outcome) -> ScorePair:
    return ScorePair(
        variants=(first.variant, second.variant),
        task=first.task,
        values=(_value(first), _value(second)),
        verdict=outcome.verdict,
        reason=outcome.verdict.reason if outcome.verdict else outcome.obstacle,
    )


def compare_runs(before: Sequence[RunRecord], after: Sequence[RunRecord], margin: float | None = None) -> RunComparison:
    """Compare two sets of runs; all scores are judged as one family.

    Args:
        before: the runs to compare with.
        after: runs of the same variants, or a single run if ``before`` is a single run.
        margin: largest acceptable loss of accuracy; None for the one that the runs of ``after`` declare.
    """
    pairs = paired_runs(before, after)
    scores = [(second, *both) for first, second in pairs for both in _common_scores(first, second)]
    judgement = judge_family([Pair(run=run, score=new, baseline=old) for run, old, new in scores], margin)
    return RunComparison(
        unlike=tuple(dict.fromkeys(condition for first, second in pairs for condition in unlike(first, second))),
        cells=tuple(pair for first, second in pairs for pair in _cell_pairs(first, second)),
        margin=judgement.margin,
        scores=tuple(
            _score_pair(old, new, outcome) for (_, old, new), outcome in zip(scores, judgement.outcomes, strict=True)
        ),
    )
