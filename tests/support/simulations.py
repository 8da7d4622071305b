"""Simulated benchmarks with the sizes of the real ones."""

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binom, multinomial

from bench.analysis.difference import Array, Difference, Spread, add_pair, difference, mean_of_units

MMLU = np.array(
    [100] * 10 + [102, 103, 108, 110, 112, 114, 121, 126, 131, 135, 144, 145, 151, 152, 163, 165, 166, 171, 173, 193,
    198, 201, 203, 204, 216, 223, 234, 235, 237, 238, 245, 265, 270, 272, 282, 306, 310, 311, 324, 346, 378, 390, 545,
    612, 783, 895, 1534], dtype=float,
)  # fmt: skip
"""Items of its 57 subjects: 14,042."""
CEVAL = np.array(
    [12, 16, 18, 18] + [19] * 16 + [20, 20, 21, 21, 21, 22, 22, 22, 22, 23, 23, 23, 23, 24, 24, 24, 24, 29, 29, 31, 31,
    33, 33, 37, 37, 44, 46, 47, 49, 49, 49, 55], dtype=float,
)  # fmt: skip
"""Items of the 52 subjects of its validation set: 1,346."""
IFEVAL = 541
DISCORDANCE = (0.02, 0.05, 0.1, 0.2)
"""Shares of items that change."""


def simulated(
    sizes: Array, discordance: float, delta: float, between: float, repetitions: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the numbers of correct items before and after, shape (repetitions, subjects).

    Subjects are random. They differ in accuracy (0.3 to 0.8), in the share of items that change, and, with standard
    deviation ``between``, in the variant's loss.
    """
    shape = (repetitions, len(sizes))
    accuracy = rng.uniform(0.3, 0.8, shape)
    loss = delta + between * rng.standard_normal(shape)
    change = np.clip(discordance * np.exp(0.3 * rng.standard_normal(shape) - 0.045), np.abs(loss), 0.25)
    before = rng.binomial(sizes.astype(int), accuracy, shape)
    lost = rng.binomial(before, np.clip((change - loss) / 2 / accuracy, 0, 1))
    gained = rng.binomial(sizes.astype(int) - before, np.clip((change + loss) / 2 / (1 - accuracy), 0, 1))
    return before.astype(float), (before - lost + gained).astype(float)


def clustered_bounds(changes: Array, sizes: Array, alpha: float) -> tuple[Array, Array]:
    """Return the ends of the interval of `Difference.interval` for each repetition."""
    mean, se, df = mean_of_units(*add_pair(changes, sizes))
    half = stdtrit(df, 1 - alpha / 2) * se
    return mean - half, mean + half


def single_bounds(gained: Array, lost: Array, n: int, alpha: float) -> tuple[Array, Array]:
    """Return the same for items of one subject from ``t``, which needs only the counts."""
    total = n + 2
    mean = (gained - lost) / total
    se = np.sqrt(((gained + lost + 2) / total - mean**2) / (total - 1))
    half = stdtrit(total - 1, 1 - alpha / 2) * se
    return mean - half, mean + half


def outcomes_of(n: int, discordance: float, delta: float) -> tuple[Array, Array, Array]:
    """Return gained, lost and probability of every possible outcome of n items of one subject."""
    rates = ((discordance + delta) / 2, (discordance - delta) / 2)
    ranges = [np.arange(binom.ppf(1e-9, n, rate), binom.ppf(1 - 1e-9, n, rate) + 1) for rate in rates]
    gained, lost = (side.ravel() for side in np.meshgrid(*ranges))
    fits = gained + lost <= n
    gained, lost = gained[fits], lost[fits]
    rest = n - gained - lost
    probability = multinomial.pmf(np.stack([gained, lost, rest], axis=1), n, [*rates, 1 - discordance])
    return gained, lost, probability


def typical(sizes: Array, changes: Array) -> Difference:
    """Return a difference with the average uncertainty of the simulated ones."""
    _, se, df = mean_of_units(*add_pair(changes, sizes))
    n, subjects = int(sizes.sum()), np.repeat(np.arange(len(sizes)), sizes.astype(int))
    spread = Spread(mean=0.0, se=float(np.sqrt((se**2).mean())), df=df)
    return difference(np.zeros(n), np.zeros(n), subjects).model_copy(update={"spread": spread})
