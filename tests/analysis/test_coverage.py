"""How often the intervals of a comparison hold the truth: simulated benchmarks of the real ones' sizes, seeded."""

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import binom, multinomial

from bench.analysis.difference import (
    Array,
    Difference,
    Spread,
    add_pair,
    by_subject,
    difference,
    mean_of_units,
    score_z,
)

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
    """Return how many items are right before and after, shape (repetitions, subjects).

    Subjects are drawn at random. They differ in accuracy (0.3 to 0.8), in how many of their items change, and, with
    standard deviation ``between``, in how much the variant loses.
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
    """Return the ends of the interval that `Difference.interval` gives for each repetition."""
    mean, se, df = mean_of_units(*add_pair(changes, sizes))
    half = stdtrit(df, 1 - alpha / 2) * se
    return mean - half, mean + half


def single_bounds(gained: Array, lost: Array, n: int, alpha: float) -> tuple[Array, Array]:
    """Return the same for items of one subject from ``t``: that needs nothing but the counts."""
    total = n + 2
    mean = (gained - lost) / total
    se = np.sqrt(((gained + lost + 2) / total - mean**2) / (total - 1))
    half = stdtrit(total - 1, 1 - alpha / 2) * se
    return mean - half, mean + half


def outcomes_of(n: int, discordance: float, delta: float) -> tuple[Array, Array, Array]:
    """Return gained, lost and probability of everything that can happen to n items of one subject."""
    rates = ((discordance + delta) / 2, (discordance - delta) / 2)
    ranges = [np.arange(binom.ppf(1e-9, n, rate), binom.ppf(1 - 1e-9, n, rate) + 1) for rate in rates]
    gained, lost = (side.ravel() for side in np.meshgrid(*ranges))
    fits = gained + lost <= n
    gained, lost = gained[fits], lost[fits]
    rest = n - gained - lost
    probability = multinomial.pmf(np.stack([gained, lost, rest], axis=1), n, [*rates, 1 - discordance])
    return gained, lost, probability


@pytest.mark.parametrize("sizes", [MMLU, CEVAL], ids=["mmlu", "ceval"])
@pytest.mark.parametrize("discordance", DISCORDANCE)
@pytest.mark.parametrize("share", [0.0, -0.4])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_the_clustered_interval_covers_the_truth_in_94_to_96_percent(
    sizes: Array, discordance: float, share: float, between: float
) -> None:
    """Both where subjects lose alike and where the loss differs between them, by a share of the items that change."""
    delta, rng = share * discordance, np.random.default_rng(7)
    before, after = simulated(sizes, discordance, delta, between * discordance, 20_000, rng)
    low, high = clustered_bounds(after - before, sizes, 0.05)
    assert 94 <= round(100 * np.mean((low <= delta) & (delta <= high)), 1) <= 96


@pytest.mark.parametrize("discordance", DISCORDANCE)
@pytest.mark.parametrize("share", [0.0, -0.25, -0.5, -0.8])
def test_the_interval_of_ifeval_covers_the_truth_in_94_to_96_percent(discordance: float, share: float) -> None:
    """All outcomes are enumerated: this is exact."""
    delta = share * discordance
    gained, lost, probability = outcomes_of(IFEVAL, discordance, delta)
    z = stdtrit(1e12, 0.975)
    covered = np.abs(score_z(gained, lost, IFEVAL, delta)) <= z
    assert 94 <= 100 * probability[covered].sum() <= 96


@pytest.mark.parametrize("n", [32, 100, 300])
@pytest.mark.parametrize("discordance", DISCORDANCE)
@pytest.mark.parametrize("share", [0.0, -0.25, -0.5, -0.8])
def test_the_interval_of_few_items_covers_the_truth_in_94_percent_or_more(
    n: int, discordance: float, share: float
) -> None:
    """100 items of which 2 change cannot give 95 % exactly; the interval is then too wide rather than too narrow."""
    delta = share * discordance
    gained, lost, probability = outcomes_of(n, discordance, delta)
    low, high = single_bounds(gained, lost, n, 0.05)
    assert 100 * probability[(low <= delta) & (delta <= high)].sum() >= 94


@pytest.mark.parametrize("between", [0.0, 0.02])
def test_the_interval_of_recovery_covers_the_truth_in_94_to_96_percent(between: float) -> None:
    rng = np.random.default_rng(7)
    before, after = simulated(MMLU, 0.1, -0.03, between, 20_000, rng)
    truth = 1 - 0.03 / 0.55
    means = before.sum(axis=1) / MMLU.sum()
    ratio = after.sum(axis=1) / before.sum(axis=1)
    influence = (after - ratio[:, None] * before) / means[:, None]
    _, se, df = mean_of_units(*add_pair(influence, MMLU, size=1 / 0.55))
    assert 94 <= 100 * np.mean(np.abs(ratio - truth) <= stdtrit(df, 0.975) * se) <= 96


def test_the_simulations_use_the_formulas_of_the_comparison() -> None:
    rng = np.random.default_rng(3)
    sizes = CEVAL.astype(int)
    subjects = np.repeat(np.arange(len(sizes)), sizes)
    before, after = rng.integers(0, 2, (2, len(subjects))).astype(float)
    found = difference(before, after, subjects)
    sums, counted = by_subject(after - before, subjects)
    assert found.method == "clustered t"
    assert found.interval(0.95) == pytest.approx(clustered_bounds(sums, counted, 0.05))
    few = difference(before[:100], after[:100], np.zeros(100, dtype=np.intp))
    assert few.method == "t"
    bounds = single_bounds(np.array(few.gained), np.array(few.lost), 100, 0.05)
    assert few.interval(0.95) == pytest.approx(bounds, rel=1e-4)


def typical(sizes: Array, changes: Array) -> Difference:
    """Return a difference that is as uncertain as the simulated ones are on average."""
    _, se, df = mean_of_units(*add_pair(changes, sizes))
    n, subjects = int(sizes.sum()), np.repeat(np.arange(len(sizes)), sizes.astype(int))
    spread = Spread(mean=0.0, se=float(np.sqrt((se**2).mean())), df=df)
    return difference(np.zeros(n), np.zeros(n), subjects).model_copy(update={"spread": spread})


@pytest.mark.parametrize(("sizes", "points"), [(MMLU, 0.7), (CEVAL, 2.2)], ids=["mmlu", "ceval"])
def test_the_planning_figures_of_mmlu_and_ceval_hold_where_8_percent_of_the_items_change(
    sizes: Array, points: float
) -> None:
    before, after = simulated(sizes, 0.08, 0.0, 0.0, 2000, np.random.default_rng(7))
    assert round(100 * typical(sizes, after - before).detectable_loss(), 1) == points


def test_the_planning_figure_of_ifeval_holds_where_12_and_a_half_percent_change() -> None:
    before, after = np.repeat([0.0, 1.0, 0.0], [34, 34, 473]), np.repeat([1.0, 0.0], [34, 507])
    found = difference(before, after, np.zeros(IFEVAL, dtype=np.intp))
    assert round(100 * found.detectable_loss(), 1) == 4.2
