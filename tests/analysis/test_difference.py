"""Standard errors and intervals of a difference: by hand, by textbook, as published."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from bench.analysis.difference import Difference, Spread, mean_of_units, score_interval, score_z


def test_equal_subjects_give_the_textbook_standard_error_and_degrees_of_freedom() -> None:
    means = np.array([0.1, -0.2, 0.0, 0.3, -0.4])
    mean, se, df = mean_of_units(means * 8, np.full(5, 8.0))
    assert mean == pytest.approx(means.mean())
    assert se == pytest.approx(means.std(ddof=1) / math.sqrt(5))
    assert df == pytest.approx(4)


def test_items_by_themselves_give_the_textbook_standard_error() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 300)
    _, se, df = mean_of_units(values, np.ones(300))
    assert se == pytest.approx(values.std(ddof=1) / math.sqrt(300))
    assert df == pytest.approx(299)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high"),
    [(1, 7, 21, -0.5172, -0.0260), (6, 16, 161, -0.1240, -0.0054)],
)
def test_the_score_interval_is_the_published_one(gained: int, lost: int, n: int, low: float, high: float) -> None:
    """Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33, 2850: airway and consolidation examples."""
    assert score_interval(gained, lost, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("t", "p"), [(2.228, 0.05), (3.169, 0.01), (1.372, 0.2)])
def test_p_values_are_those_of_the_table_of_student(t: float, p: float) -> None:
    """Two-sided critical values with 10 degrees of freedom."""
    figures = {"n": 90, "clusters": 11, "baseline_mean": 0.6, "variant_mean": 0.5, "gained": 1, "lost": 10}
    spread = Spread(mean=-0.1, se=0.02, df=10)
    difference = Difference(**figures, method="clustered t", spread=spread, mcnemar_p=0.01)
    assert difference.p_below(-0.1 + t * 0.02) == pytest.approx(p, rel=2e-3)
    assert difference.p_below(-0.1 - t * 0.02) == 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 500))
def test_against_no_difference_the_score_test_is_mcnemars(gained: int, lost: int, same: int) -> None:
    expected = (gained - lost) / math.sqrt(gained + lost) if gained + lost else 0.0
    assert score_z(gained, lost, gained + lost + same, 0.0) == pytest.approx(expected)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 500), st.sampled_from([0.5, 0.95, 0.998]))
def test_the_score_interval_ends_where_the_score_test_rejects(
    gained: int, lost: int, same: int, confidence: float
) -> None:
    n = gained + lost + same
    z = float(stdtrit(1e12, (1 + confidence) / 2))
    low, high = score_interval(gained, lost, n, confidence)
    assert score_z(gained, lost, n, low) == pytest.approx(z, abs=1e-3)
    assert score_z(gained, lost, n, high) == pytest.approx(-z, abs=1e-3)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 1, 1), (1, 0, 1), (0, 0, 1), (0, 9, 9), (9, 0, 9), (4, 5, 9)])
def test_the_score_interval_of_extreme_counts_stays_within_bounds(gained: int, lost: int, n: int) -> None:
    low, high = score_interval(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert low < high
