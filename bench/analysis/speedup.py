"""How many times as fast a variant's cell is as the baseline's, with an interval. Pure functions."""

from collections.abc import Callable, Sequence

import numpy as np

from bench.records.record import RequestTrace
from bench.speed.figures import MeasuredCell, per_trial
from bench.speed.metrics import CONFIDENCE, RESAMPLES, Interval, bootstrap_median, is_saturated
from quantize.key import Frozen

MIN_TRIALS = 3
"""With fewer trials the spread is unknown, so there is no verdict."""


class Speedup(Frozen):
    """Baseline's time / variant's time; above 1 the variant is faster."""

    ratio: Interval
    """Median ratio and its bootstrap interval; ``n`` is the number of trials of the cell with fewer."""
    paired: bool
    """Whether interleaved trials were divided one by one, so that slow drifts cancel out."""

    @property
    def verdict(self) -> str:
        """``faster``, ``slower``, ``no difference seen``, or ``not enough data``."""
        if self.ratio.n < MIN_TRIALS:
            return "not enough data"
        if self.ratio.low > 1:
            return "faster"
        return "slower" if self.ratio.high < 1 else "no difference seen"


def speedup(
    baseline: MeasuredCell, variant: MeasuredCell, figure: Callable[[RequestTrace], float | None]
) -> Speedup | None:
    """Return how many times as fast ``variant`` is; None unless both cells have the figure.

    A saturated open loop has no latencies to compare.

    Interleaved trials are divided one by one, and the result is the median of these ratios. Otherwise the medians of
    the two cells are divided, and the two are resampled independently of each other.

    Args:
        baseline: the cell to compare with.
        variant: a cell of the same shape.
        figure: a time of one request, such as :func:`bench.speed.metrics.tpot_s`; smaller is faster.
    """
    if is_saturated(baseline.cell) or is_saturated(variant.cell):
        return None
    before, after = per_trial(baseline, figure), per_trial(variant, figure)
    if not before or not after:
        return None
    if baseline.cell.interleaved and variant.cell.interleaved and len(before) == len(after):
        ratios = bootstrap_median(old / new for old, new in zip(before, after, strict=True))
        return Speedup(ratio=ratios, paired=True) if ratios else None
    return Speedup(ratio=ratio_of_medians(before, after), paired=False)


def ratio_of_medians(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return the ratio of two medians with its bootstrap interval, both resampled independently of each other."""
    rng = np.random.default_rng(0)
    medians = [
        np.median(rng.choice(np.array(times), size=(RESAMPLES, len(times))), axis=1) for times in (before, after)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians[0] / medians[1], (tail, 1 - tail), method="inverted_cdf")
    return Interval(
        median=float(np.median(before) / np.median(after)),
        low=float(low),
        high=float(high),
        n=min(len(before), len(after)),
    )
