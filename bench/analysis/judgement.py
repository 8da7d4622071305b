"""One judgement over many scores: the margin that applies, and how many comparisons count together. Pure.

The report, ``compare``, ``decide`` and the gate all ask :func:`judged_together`, so that they give the same verdict for
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
"""Why a score that was used again is not compared."""


@dataclass(frozen=True)
class Pair:
    """A run's score of a task, and the one that it is compared with."""

    run: RunRecord
    """The run that is judged: it declares the margin."""
    score: TaskScore
    baseline: TaskScore | None
    """None if there is none."""
    repeat: TaskScore | None = None
    """The baseline's items asked a second time, in another order."""


@dataclass(frozen=True)
class Outcome:
    """What the judgement says of one pair."""

    verdict: Verdict | None
    obstacle: Words
    """Why there is no verdict; empty where there is one."""


@dataclass(frozen=True)
class FamilyJudgement:
    """All verdicts that are shown together."""

    margin: Margin | None
    """The margin of every verdict; None without any pair and without a given one."""
    outcomes: tuple[Outcome, ...]
    """One for each pair, in the same order."""


def is_reused(baseline: TaskScore, score: TaskScore) -> bool:
    """Tell whether a score is the baseline's own, used again: it is no comparison and counts as none."""
    return baseline.key == score.key


def judged_together(pairs: Sequence[Pair], given: float | None = None) -> FamilyJudgement:
    """Judge every pair by one margin; all that can be compared are one family, for which p values are corrected.

    Args:
        pairs: everything that is shown together.
        given: margin that takes precedence over those that the runs declare, of 1.
    """
    margin = applicable_margin([pair.run for pair in pairs], given)
    compared = [_compared(pair) for pair in pairs]
    family = [comparison for comparison, _ in compared if comparison]
    verdicts = iter(judge(family, margin.value) if margin else ())
    outcomes = (Outcome(next(verdicts) if comparison else None, why) for comparison, why in compared)
    return FamilyJudgement(margin=margin, outcomes=tuple(outcomes))


def _compared(pair: Pair) -> tuple[Comparison | None, Words]:
    """Return the comparison, or why there is none."""
    if pair.baseline is None:
        return None, msg("obstacle.no_score")
    if is_reused(pair.baseline, pair.score):
        return None, UNCHANGED
    comparison = compare(pair.baseline, pair.score, pair.repeat)
    return comparison, "" if comparison else obstacle(pair.baseline, pair.score) or ""
