"""Judge many scores as one family: one margin, and p values corrected for the number of comparisons. Pure.

The report, ``compare``, ``decide`` and the gate all call :func:`judge_family`, so that they give the same verdict for
the same runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.paired import Comparison, compare, obstacle
from bench.analysis.verdict import Verdict, judge
from bench.messages.message import Words, msg
from bench.records.margin import Margin, applicable_margin
from bench.records.record import RunRecord, TaskScore

UNCHANGED = msg("obstacle.unchanged")
"""Why a reused score is not compared."""


@dataclass(frozen=True)
class Pair:
    """A run's score of a task, and the score that it is compared with."""

    run: RunRecord
    """The run of the score, which declares the margin."""
    score: TaskScore
    baseline: TaskScore | None
    """None if the baseline has no score of the task."""
    repeat: TaskScore | None = None
    """The baseline's items asked a second time, in another order."""


@dataclass(frozen=True)
class Outcome:
    """The verdict on one pair, or why there is none."""

    verdict: Verdict | None
    obstacle: Words
    """Why there is no verdict; empty where there is one."""


@dataclass(frozen=True)
class FamilyJudgement:
    """The verdicts of one family."""

    margin: Margin | None
    """The margin of every verdict; None if there are no pairs and none is given."""
    outcomes: tuple[Outcome, ...]
    """One for each pair, in the same order."""


def is_reused(baseline: TaskScore, score: TaskScore) -> bool:
    """Whether a score is the baseline's own, reused; it is then not compared and not counted."""
    return baseline.key == score.key


def judge_family(pairs: Sequence[Pair], given: float | None = None) -> FamilyJudgement:
    """Judge every pair by one margin; p values are corrected for the number of pairs that can be compared.

    Args:
        pairs: all pairs that are reported together.
        given: margin that takes precedence over those that the runs declare, of 1.
    """
    margin = applicable_margin([pair.run for pair in pairs], given)
    comparisons = [_compare(pair) for pair in pairs]
    family = [comparison for comparison, _ in comparisons if comparison]
    verdicts = iter(judge(family, margin.value) if margin else ())
    outcomes = (Outcome(next(verdicts) if comparison else None, obstacle) for comparison, obstacle in comparisons)
    return FamilyJudgement(margin=margin, outcomes=tuple(outcomes))


def _compare(pair: Pair) -> tuple[Comparison | None, Words]:
    """Return the comparison and an empty obstacle, or None and the obstacle."""
    if pair.baseline is None:
        return None, msg("obstacle.no_score")
    if is_reused(pair.baseline, pair.score):
        return None, UNCHANGED
    comparison = compare(pair.baseline, pair.score, pair.repeat)
    return comparison, "" if comparison else obstacle(pair.baseline, pair.score) or ""
