"""How often the intervals of a comparison hold the truth: simulated benchmarks of the real ones' sizes, seeded."""

import numpy as np
import pytest
from scipy.special import stdtrit

from bench.analysis.difference import Array, add_pair, by_subject, difference, mean_of_units, score_z
from tests.support.simulations import (
    CEVAL,
    DISCORDANCE,
    IFEVAL,
    MMLU,
    clustered_bounds,
    outcomes_of,
    simulated,
    single_bounds,
    typical,
)


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
    change = difference(before, after, subjects)
    sums, counted = by_subject(after - before, subjects)
    assert change.method == "clustered t"
    assert change.interval(0.95) == pytest.approx(clustered_bounds(sums, counted, 0.05))
    few = difference(before[:100], after[:100], np.zeros(100, dtype=np.intp))
    assert few.method == "t"
    bounds = single_bounds(np.array(few.gained), np.array(few.lost), 100, 0.05)
    assert few.interval(0.95) == pytest.approx(bounds, rel=1e-4)


@pytest.mark.parametrize(("sizes", "points"), [(MMLU, 0.7), (CEVAL, 2.2)], ids=["mmlu", "ceval"])
def test_planning_figures_of_mmlu_and_ceval_hold_if_8_percent_of_items_change(sizes: Array, points: float) -> None:
    before, after = simulated(sizes, 0.08, 0.0, 0.0, 2000, np.random.default_rng(7))
    assert round(100 * typical(sizes, after - before).detectable_loss(), 1) == points


def test_the_planning_figure_of_ifeval_holds_where_12_and_a_half_percent_change() -> None:
    before, after = np.repeat([0.0, 1.0, 0.0], [34, 34, 473]), np.repeat([1.0, 0.0], [34, 507])
    change = difference(before, after, np.zeros(IFEVAL, dtype=np.intp))
    assert round(100 * change.detectable_loss(), 1) == 4.2
