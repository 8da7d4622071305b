"""Call each variant worse than the baseline, non-inferior, or inconclusive. Pure functions.

The verdict follows from the intervals: for *worse* the whole interval is below 0, for *non-inferior* above -margin. A
loss that is significant and smaller than the margin fulfils both; the verdict is then non-inferior, and the reason
names the loss. The method and its error rates: docs/decisions/0012-accuracy-verdict.md.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from bench.analysis.difference import ALPHA, Array
from bench.analysis.estimate import Estimate
from bench.analysis.paired import Comparison
from bench.format import points_by_size as pp
from bench.messages.message import Words, clauses, msg
from quantize.key import Frozen

Kind = Literal["worse", "non-inferior", "inconclusive"]


class Verdict(Frozen):
    """The verdict of one comparison, corrected for all comparisons of the report."""

    comparison: Comparison
    margin: float
    """Largest loss, of 1, with which a variant counts as non-inferior."""
    alpha: float
    """Error probability: half for any false *worse* in the report, half for any false *non-inferior*."""
    comparisons: int
    """Number of comparisons in the report."""
    p_worse: float
    """Twice the one-sided p value of a loss, at most 1: below 0.05 exactly where the 95 % interval lies below 0."""
    p_worse_holm: float
    """The same p value, corrected for the number of comparisons (Holm)."""
    simultaneous: Estimate
    """The difference with an interval that holds for all comparisons at once (Bonferroni)."""
    mde: float
    """Smallest true loss that is called worse with 80 % probability, at the strictest step of Holm's correction."""

    @property
    def lost(self) -> bool:
        """Whether the loss is significant: without one, such data have a probability of at most ``alpha``."""
        return self.p_worse_holm <= self.alpha

    @property
    def kind(self) -> Kind:
        """The verdict itself."""
        if self.simultaneous.low > -self.margin:
            return "non-inferior"
        return "worse" if self.lost else "inconclusive"

    @property
    def items_needed(self) -> int:
        """Items for which ``mde`` would equal the margin, at the same rate of changed items."""
        return math.ceil(self.comparison.n * (self.mde / self.margin) ** 2)

    @property
    def beyond_noise(self) -> bool | None:
        """Whether more items flip than between two runs of the baseline; None if the baseline was not repeated."""
        return self.comparison.noise.excess.low > 0 if self.comparison.noise else None

    @property
    def reason(self) -> Words:
        """The reason in one sentence, with its figures."""
        return clauses((self._difference(), *self._flips()))

    def _difference(self) -> Words:
        level = f"{100 * (1 - self.alpha):g}"
        sure = msg("reason.confidence", level=level)
        if self.comparisons > 1:
            sure = msg("reason.confidence.over", level=level, n=self.comparisons)
        if self.kind == "non-inferior":
            return self._non_inferior(sure)
        delta, reach = self.comparison.delta, self.simultaneous
        if self.kind == "worse":
            loss, least, most = pp(-delta.value), pp(-delta.high), pp(-delta.low)
            if self.comparisons > 1:
                return msg("reason.worse.over", loss=loss, low=least, high=most, n=self.comparisons)
            return msg("reason.worse", loss=loss, low=least, high=most)
        low, high, items = pp(reach.low), pp(reach.high), f"{self.comparison.n:,}"
        return msg("reason.inconclusive", low=low, high=high, confidence=sure, items=items, loss=pp(self.mde))

    def _non_inferior(self, sure: Words) -> Words:
        low, margin = self.simultaneous.low, f"{100 * self.margin:g}"
        bound = msg("reason.at_most", bound=pp(-low)) if low < 0 else msg("reason.at_least", bound=pp(low))
        if not self.lost:
            return msg("reason.non_inferior", bound=bound, confidence=sure, margin=margin)
        loss = pp(-self.comparison.delta.value)
        return msg("reason.non_inferior.lost", loss=loss, bound=bound, confidence=sure, margin=margin)

    def _flips(self) -> tuple[Words, ...]:
        noise = self.comparison.noise
        if noise is None:
            return ()
        variant, chance = f"{100 * (noise.flip_rate + noise.excess.value):.1f}", f"{100 * noise.flip_rate:.1f}"
        if self.beyond_noise:
            return (msg("reason.flips.more", variant=variant, chance=chance),)
        return (msg("reason.flips.alike", variant=variant, chance=chance),)


def holm(p: Array) -> Array:
    """Return p values corrected for the number of tests (Holm 1979) along the last axis."""
    count = p.shape[-1]
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(count, 0, -1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.maximum.accumulate(steps, axis=-1).clip(max=1), axis=-1)
    return corrected


def judge(comparisons: Sequence[Comparison], margin: float, alpha: float = ALPHA) -> tuple[Verdict, ...]:
    """Return the verdict of each comparison, in the same order.

    Args:
        comparisons: all comparisons of one report: variants x tasks, without repeats of the baseline.
        margin: largest acceptable loss; 0.01 is one percentage point.
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
