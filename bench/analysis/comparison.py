"""One set of runs beside another: every speed cell and every task that both have. Pure functions.

Speeds say something only under like conditions, so what differs between the two is part of the answer. Where both were
measured beside a baseline whose trials took turns with theirs, that baseline tells how fast the machine was, and the
ratio that counts is that of the two shares of it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from bench.analysis.baseline import cell_under_same_load, control_cell, paired_runs
from bench.analysis.judgement import Outcome, Pair, judged_together
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


class Unlike(Frozen):
    """A condition in which two runs differ."""

    what: str
    one: str
    other: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.what}: {self.one} / {self.other}"


class CellPair(Frozen):
    """A shape that both runs measured."""

    variants: tuple[Variant, Variant]
    shape: Shape
    figure: Figure
    medians_s: tuple[float | None, float | None]
    """Medians over trials; None where there is no valid figure."""
    ratio: Interval | None
    """First's time / second's: above 1 the second is faster."""
    kind: Literal["faster", "slower", "no difference seen", "not enough data", "not compared"]
    reason: str
    controlled: bool = False
    """Whether both speeds were taken as shares of a baseline that took turns with them."""


class ScorePair(Frozen):
    """A task that both runs have."""

    variants: tuple[Variant, Variant]
    task: str
    values: tuple[float | None, float | None]
    """Scores, 0 to 1; None where there is no valid one."""
    verdict: Verdict | None
    reason: Worded


class Compared(Frozen):
    """Everything that two sets of runs have in common."""

    unlike: tuple[Unlike, ...]
    """In what the conditions differ that speeds depend on; empty where they are alike."""
    cells: tuple[CellPair, ...]
    margin: Margin | None
    """By which scores are judged; None where there is none in common and no margin was given."""
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


def unlike(one: RunRecord, other: RunRecord) -> tuple[Unlike, ...]:
    """Return what differs between the conditions of two runs, except for what is measured."""
    first, second = _conditions(one), _conditions(other)
    names = dict.fromkeys((*first, *second))
    return tuple(
        Unlike(what=name, one=first.get(name, "none"), other=second.get(name, "none"))
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
        reason = f"no {name} in both, or more came than a server could take"
    elif change.ratio.n < MIN_TRIALS:
        reason = f"{change.ratio.n} trials, at least {MIN_TRIALS} are needed"
    else:
        reason = "each as a share of its baseline's, which took turns with it" if controlled else "medians of trials"
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


def _common_scores(one: RunRecord, other: RunRecord) -> Iterator[tuple[TaskScore, TaskScore]]:
    again = {score.task: score for score in other.scores if not score.repeat}
    for score in one.scores:
        if not score.repeat and score.task in again:
            yield score, again[score.task]


def _score_pair(one: TaskScore, other: TaskScore, outcome: Outcome) -> ScorePair:
    return ScorePair(
        variants=(one.variant, other.variant),
        task=one.task,
        values=(_value(one), _value(other)),
        verdict=outcome.verdict,
        reason=outcome.verdict.reason if outcome.verdict else outcome.obstacle,
    )


def compared(one: Sequence[RunRecord], other: Sequence[RunRecord], margin: float | None = None) -> Compared:
    """Compare two sets of runs; scores are judged all together.

    Args:
        one: what is compared with.
        other: of the same variants, or a single run beside a single one.
        margin: loss of accuracy that does not matter; None for the one that the runs of ``other`` declare.
    """
    pairs = paired_runs(one, other)
    scores = [(second, *both) for first, second in pairs for both in _common_scores(first, second)]
    judgement = judged_together([Pair(run=run, score=after, baseline=before) for run, before, after in scores], margin)
    return Compared(
        unlike=tuple(dict.fromkeys(what for first, second in pairs for what in unlike(first, second))),
        cells=tuple(pair for first, second in pairs for pair in _cell_pairs(first, second)),
        margin=judgement.margin,
        scores=tuple(
            _score_pair(before, after, outcome)
            for (_, before, after), outcome in zip(scores, judgement.outcomes, strict=True)
        ),
    )
