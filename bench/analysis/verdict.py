"""Call each variant worse than the baseline, non-inferior, or inconclusive. Pure functions.

The verdict can be read off the intervals: *worse* lies below 0 altogether, *non-inferior* lies above -margin. A real
loss that is surely smaller than the margin is both; it is called non-inferior, and the reason tells of the loss. Why it
is done this way, and how often it errs: docs/decisions/0012-accuracy-verdict.md.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from bench.analysis.difference import ALPHA, Array
from bench.analysis.estimate import Estimate
from bench.analysis.paired import Comparison
from bench.format import points_by_size as pp
from bench.records.margin import in_points
from quantize.key import Frozen

Kind = Literal["worse", "non-inferior", "inconclusive"]


class Verdict(Frozen):
    """What one comparison says, all comparisons of the report taken into account."""

    comparison: Comparison
    margin: float
    """Loss, of 1, up to which a variant counts as no worse."""
    alpha: float
    """Error probability: half for any false *worse* in the report, half for any false *non-inferior*."""
    comparisons: int
    """How many the report makes."""
    p_worse: float
    """Twice the one-sided p value of a loss, at most 1: below 0.05 exactly where the 95 % interval lies below 0."""
    p_worse_holm: float
    """The same p value, corrected for the number of comparisons (Holm)."""
    simultaneous: Estimate
    """The difference with an interval that holds for all comparisons at once (Bonferroni)."""
    mde: float
    """Smallest true loss that is called worse with 80 % probability, even as the hardest of so many comparisons."""

    @property
    def lost(self) -> bool:
        """Whether the loss is more than chance: no loss at all would look like this in fewer than ``alpha``."""
        return self.p_worse_holm <= self.alpha

    @property
    def kind(self) -> Kind:
        """The verdict itself."""
        if self.simultaneous.low > -self.margin:
            return "non-inferior"
        return "worse" if self.lost else "inconclusive"

    @property
    def items_needed(self) -> int:
        """Items with which ``mde`` would be the margin, if they changed as often as these."""
        return math.ceil(self.comparison.n * (self.mde / self.margin) ** 2)

    @property
    def beyond_noise(self) -> bool | None:
        """Whether more items flip than when the baseline is asked again; None if it was not asked again."""
        return self.comparison.noise.excess.low > 0 if self.comparison.noise else None

    @property
    def reason(self) -> str:
        """One plain sentence with the figures."""
        over = f" over {self.comparisons} comparisons" if self.comparisons > 1 else ""
        return self._difference(over) + self._flips()

    def _difference(self, over: str) -> str:
        sure = f"with {100 * (1 - self.alpha):g} % confidence{over}"
        delta, reach = self.comparison.delta, self.simultaneous
        if self.kind == "non-inferior":
            bound = f"at most {pp(-reach.low)} pp worse" if reach.low < 0 else f"at least {pp(reach.low)} pp better"
            loss = f"lost {pp(-delta.value)} pp, but " if self.lost else ""
            return f"{loss}{bound} {sure}, inside the margin of {in_points(self.margin)}"
        if self.kind == "worse":
            interval = f"95 % interval {pp(-delta.high)} to {pp(-delta.low)}"
            return f"lost {pp(-delta.value)} pp ({interval}), more than chance allows{over}"
        return (
            f"anything from {pp(reach.low)} to {pp(reach.high)} pp is possible {sure}; "
            f"with {self.comparison.n:,} items a loss below {pp(self.mde)} pp is easily missed"
        )

    def _flips(self) -> str:
        noise = self.comparison.noise
        if noise is None:
            return ""
        variant, by_chance = 100 * (noise.flip_rate + noise.excess.value), 100 * noise.flip_rate
        than = "more than" if self.beyond_noise else "not surely more than"
        return f"; {variant:.1f} % of the items flip, {than} the {by_chance:.1f} % of the baseline asked again"


def holm(p: Array) -> Array:
    """Return p values corrected for their number (Holm 1979), which the last axis counts."""
    count = p.shape[-1]
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(count, 0, -1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.maximum.accumulate(steps, axis=-1).clip(max=1), axis=-1)
    return corrected


def judge(comparisons: Sequence[Comparison], margin: float, alpha: float = ALPHA) -> tuple[Verdict, ...]:
    """Return the verdict of each comparison, in the same order.

    Args:
        comparisons: all of one report: variants x tasks, without the baseline's own repeats.
        margin: loss that does not matter; 0.01 is one percentage point.
        alpha: level of the two-sided intervals; 0.05 for 95 %.
    """
    count = len(comparisons)
    p_worse = np.array([comparison.p_below() for comparison in comparisons])
    verdicts = []
    for comparison, p, corrected in zip(comparisons, p_worse, holm(p_worse), strict=True):
        low, high = comparison.interval(1 - alpha / count)
        verdict = Verdict(
            comparison=comparison,
            margin=margin,
            alpha=alpha,
            comparisons=count,
            p_worse=float(p),
            p_worse_holm=float(corrected),
            simultaneous=Estimate(value=comparison.delta.value, low=low, high=high),
            mde=comparison.detectable_loss(alpha / count),
        )
        verdicts.append(verdict)
    return tuple(verdicts)
