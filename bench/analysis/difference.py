"""The difference of two runs over the same items, with its intervals and tests. Pure functions of two arrays.

With enough subjects these count as drawn at random, each with all its items: a variant may lose in some and not in
others. The interval is then t with the cluster-robust standard error CR2 and the degrees of freedom of Bell and
McCaffrey (2002, Survey Methodology 28, 169). With few subjects items count as drawn at random: t again, or, where there
are many that are right or wrong, Tango's score interval (1998, Statistics in Medicine 17, 891), whose test of no
difference is McNemar's.

A t interval takes its width from items that changed, and a good variant leaves few. So one gained and one lost are
added to it (Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37, 479); among many they vanish.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from scipy.stats import binomtest

from bench.analysis.estimate import Estimate
from quantize.key import Frozen

Array = NDArray[np.float64]
Labels = NDArray[np.intp]
"""Number of each item's subject, from 0 without gaps."""

CONFIDENCE = 0.95
ALPHA = 0.05
POWER = 0.8
"""Of intervals, tests and detectable losses: the values that are usual in planning (Cohen 1988)."""
FEWEST_CLUSTERS = 10
"""Subjects from which their spread is used; with fewer it is too uncertain itself (simulated, docs/decisions/0012)."""
FEWEST_FOR_SCORE = 500
"""Items from which the score interval covers 95 %; with fewer t errs on the safe side (docs/decisions/0012)."""
RESAMPLES = 2000
"""Of the bootstrap: 1,000 to 2,000 are usual for the ends of an interval (Efron and Tibshirani 1993)."""


class Spread(Frozen):
    """A mean with its standard error and degrees of freedom, in the unit of the averaged values."""

    mean: float
    se: float
    """Standard error of ``mean``."""
    df: float
    """Degrees of freedom of ``se``."""

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return the two-sided t interval."""
        half = float(stdtrit(self.df, (1 + confidence) / 2)) * self.se
        return self.mean - half, self.mean + half


def mean_of_units(sums: Array, sizes: Array) -> tuple[Array, Array, float]:
    """Return the mean over all items, its CR2 standard error, and the degrees of freedom of that.

    Args:
        sums: sum over each unit's items, shape (..., units); a unit is a subject, or a single item.
        sizes: number of each unit's items, shape (units,); at least two units.
    """
    total = sizes.sum()
    mean = sums.sum(axis=-1) / total
    weights = 1 / (1 - sizes / total)
    residuals = sums - sizes * mean[..., None]
    se = np.sqrt((weights * residuals**2).sum(axis=-1)) / total
    # Squared covariances of the residuals of independent items: between units, and of a unit with itself.
    between = ((weights * sizes**2).sum() ** 2 - (weights**2 * sizes**4).sum()) / total**2
    return mean, se, float(total**2 / ((sizes**2).sum() + between))


def add_pair(sums: Array, sizes: Array, size: float = 1.0) -> tuple[Array, Array]:
    """Return the units of :func:`mean_of_units` and two more, of one item each, that gain and lose ``size``."""
    gain = np.full((*sums.shape[:-1], 1), size)
    return np.concatenate([sums, gain, -gain], axis=-1), np.concatenate([sizes, [1.0, 1.0]])


def is_clustered(subjects: Labels) -> bool:
    """Whether there are enough subjects to count as drawn at random."""
    return int(subjects.max()) + 1 >= FEWEST_CLUSTERS


def by_subject(values: Array, subjects: Labels) -> tuple[Array, Array]:
    """Return the sum over each subject's items, and their number."""
    sizes = np.bincount(subjects).astype(np.float64)
    return np.bincount(subjects, weights=values).astype(np.float64), sizes


def spread(values: Array, subjects: Labels, pair: float) -> Spread:
    """Return the mean of the values with its standard error.

    Args:
        values: one for each item.
        subjects: that the items belong to.
        pair: size of the gain and the loss that are added; 0 adds none, and then two items are needed.
    """
    units = by_subject(values, subjects) if is_clustered(subjects) else (values, np.ones(len(values)))
    mean, se, df = mean_of_units(*(add_pair(*units, size=pair) if pair else units))
    return Spread(mean=float(mean), se=float(se), df=df)


def score_z(gained: Array | int, lost: Array | int, n: int, bound: float) -> Any:
    """Return Tango's statistic of the difference (gained - lost) / n against ``bound``: about standard normal.

    Its variance is that of the likeliest rates of which the difference is ``bound``. Against 0 it is McNemar's
    (gained - lost) / sqrt(gained + lost).
    """
    linear = (2 * n - gained + lost) * bound - gained - lost
    root = np.sqrt(np.maximum(linear**2 + 8 * n * lost * bound * (1 - bound), 0))
    variance = n * ((root - linear) / (2 * n) + bound * (1 - bound))
    # It is 0 only where nothing differs and the bound is 0: then so is the statistic.
    return (gained - lost - n * bound) / np.sqrt(np.maximum(variance, 1e-300))


def score_interval(gained: int, lost: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the differences that Tango's test does not reject."""
    z = float(ndtri((1 + confidence) / 2))

    def end(sign: int) -> float:
        def excess(bound: float) -> float:
            return float(score_z(gained, lost, n, bound)) * sign + z

        limit = sign * (1 - 1e-12)
        if gained - lost == sign * n or excess(limit) >= 0:
            return float(sign)
        return float(brentq(excess, (gained - lost) / n, limit, xtol=1e-12))

    return end(-1), end(1)


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p value of McNemar's test; 1 if nothing changed."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def bootstrap_means(values: Array, subjects: Labels) -> Array:
    """Return means of ``RESAMPLES`` samples drawn with replacement; the same for the same arguments.

    Whole subjects are drawn where :func:`is_clustered`, because their items go together; otherwise items are.
    """
    rng = np.random.default_rng(0)
    if is_clustered(subjects):
        sums, sizes = by_subject(values, subjects)
        drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
        means: Array = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        return means
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=RESAMPLES) @ distinct / len(values)


class Difference(Frozen):
    """Difference from the baseline to the variant over the same items; negative for a loss."""

    n: int
    """Items."""
    clusters: int
    """Subjects that the items belong to."""
    method: Literal["clustered t", "t", "score"]
    """Method of intervals and tests: t over subjects, t over items, or Tango's score interval over items."""
    baseline_mean: float
    """Mean score, 0 to 1."""
    variant_mean: float
    """The same, 0 to 1."""
    gained: int
    """Items on which the variant scores higher."""
    lost: int
    """Items on which the variant scores lower."""
    spread: Spread
    """Of the difference, with one item gained and one lost added."""
    mcnemar_p: float
    """P value of McNemar's exact two-sided test; of a sign test where items score between 0 and 1."""

    @property
    def delta(self) -> Estimate:
        """Variant's mean - baseline's, with its 95 % interval; 0.01 is one percentage point."""
        low, high = self.interval(CONFIDENCE)
        return Estimate(value=self.variant_mean - self.baseline_mean, low=low, high=high)

    @property
    def flip_rate(self) -> float:
        """Share of the items on which the score differs."""
        return (self.gained + self.lost) / self.n

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval of the difference."""
        if self.method == "score":
            return score_interval(self.gained, self.lost, self.n, confidence)
        low, high = self.spread.interval(confidence)
        return max(low, -1.0), min(high, 1.0)

    def p_below(self, bound: float = 0.0) -> float:
        """Return the p value of the difference being below ``bound``: twice the one-sided one, at most 1.

        It is below 0.05 exactly where the 95 % interval lies below ``bound``.
        """
        if self.method == "score":
            one_sided = ndtr(score_z(self.gained, self.lost, self.n, bound))
        else:
            one_sided = stdtr(self.spread.df, (self.spread.mean - bound) / self.spread.se)
        return min(1.0, 2 * float(one_sided))

    def detectable_loss(self, alpha: float = ALPHA) -> float:
        """Return the true loss at which :meth:`p_below` falls below ``alpha`` with 80 % probability; at most 1.

        It assumes the observed number of changed items, or, if no loss could be detected among so few, the smallest
        number that suffices.
        """
        level, power = (float(stdtrit(self.spread.df, share)) for share in (1 - alpha / 2, POWER))
        # Changed items that make the standard error what it is, those of the added pair among them.
        added = 0 if self.method == "score" else 2
        seen = self.gained + self.lost if self.method == "score" else (self.spread.se * self.n) ** 2
        # The fewest changed items that suffice if all of them are lost.
        least = level + power / 2
        changed = max(float(seen), added + least * (least + math.sqrt(least**2 + 4 * added)) / 2)
        # Where most of them are lost, (lost - gained) / sqrt(changed) spreads less: by 3/4 (loss / changed)^2.
        less = 1 + 0.75 * power**2 / changed
        needed = (level + math.sqrt(level**2 - less * (level**2 - power**2))) / less
        return min(1.0, needed * math.sqrt(changed) / self.n)


def difference(before: Array, after: Array, subjects: Labels) -> Difference:
    """Return what changed from ``before`` to ``after``.

    Args:
        before: what the baseline scores on each item, 0 to 1; one item or more.
        after: what the variant scores on the same items.
        subjects: that the items belong to.
    """
    values = after - before
    many_right_or_wrong = len(values) >= FEWEST_FOR_SCORE and bool(np.isin([before, after], (0, 1)).all())
    gained, lost = int((values > 0).sum()), int((values < 0).sum())
    return Difference(
        n=len(values),
        clusters=int(subjects.max()) + 1,
        method="clustered t" if is_clustered(subjects) else "score" if many_right_or_wrong else "t",
        baseline_mean=float(before.mean()),
        variant_mean=float(after.mean()),
        gained=gained,
        lost=lost,
        spread=spread(values, subjects, pair=1.0),
        mcnemar_p=mcnemar(gained, lost),
    )
