"""Verdicts: the kinds, their reasons, and their error rates."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri, stdtr

from bench.analysis.difference import Array, add_pair, mean_of_units, score_z
from bench.analysis.paired import Comparison, compare
from bench.analysis.verdict import Verdict, holm, judge
from tests.support.pairs import comparison, counts, two_scores
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

MARGIN, ALPHA = 0.01, 0.05
VARIANTS = 4
REPETITIONS = 4000


def judged(comparison: Comparison, others: Sequence[Comparison] = ()) -> Verdict:
    return judge([comparison, *others], MARGIN)[0]


def of_counts(n: int, gained: int, lost: int, subjects: int = 1) -> Comparison:
    return comparison(*counts(n, gained, lost), subjects)


# Kinds of verdict


def test_a_clear_loss_is_worse() -> None:
    verdict = judged(of_counts(600, 5, 40))
    assert verdict.kind == "worse"
    assert str(verdict.reason) == "lost 5.8 pp (95 % interval 3.8 to 8.2), more than chance allows"


def test_a_loss_within_the_margin_with_confidence_is_non_inferior() -> None:
    verdict = judged(of_counts(6000, 20, 22))
    assert verdict.kind == "non-inferior"
    assert not verdict.lost
    assert str(verdict.reason) == "at most 0.26 pp worse with 95 % confidence, inside the margin of 1 pp"


def test_a_significant_loss_within_the_margin_is_non_inferior_and_in_the_reason() -> None:
    verdict = judged(of_counts(6000, 5, 30))
    assert verdict.kind == "non-inferior"
    assert verdict.lost
    assert (
        str(verdict.reason) == "lost 0.42 pp, but at most 0.64 pp worse with 95 % confidence, inside the margin of 1 pp"
    )


def test_a_gain_is_non_inferior() -> None:
    verdict = judged(of_counts(600, 40, 5))
    assert verdict.kind == "non-inferior"
    assert str(verdict.reason) == "at least 3.8 pp better with 95 % confidence, inside the margin of 1 pp"


def test_ifeval_cannot_resolve_a_small_loss_and_says_so() -> None:
    verdict = judged(of_counts(IFEVAL, 30, 35))
    assert verdict.kind == "inconclusive"
    assert str(verdict.reason) == (
        "anything from −3.9 to 2.0 pp is possible with 95 % confidence; "
        "with 541 items a loss below 4.1 pp is easily missed"
    )
    assert verdict.items_needed == pytest.approx(541 * (verdict.mde / MARGIN) ** 2, abs=1)
    assert verdict.items_needed > 9000


def test_the_reason_names_the_number_of_comparisons() -> None:
    verdicts = judge([of_counts(600, 5, 40), of_counts(6000, 5, 6), of_counts(600, 20, 22)], MARGIN)
    assert [verdict.kind for verdict in verdicts] == ["worse", "non-inferior", "inconclusive"]
    assert all("over 3 comparisons" in str(verdict.reason) and verdict.comparisons == 3 for verdict in verdicts)


def test_a_significant_loss_may_be_chance_among_many() -> None:
    loss = of_counts(600, 10, 24)
    assert judged(loss).kind == "worse"
    assert judged(loss, [of_counts(600, 20, 20)] * 11).kind == "inconclusive"


def test_holm_lets_the_second_of_two_losses_count_where_bonferroni_would_not() -> None:
    clear, weaker = of_counts(600, 2, 60), of_counts(600, 10, 22)
    assert 0.025 < weaker.p_below() < 0.05
    assert judged(weaker, [of_counts(600, 20, 20)]).kind == "inconclusive"
    assert judged(weaker, [clear]).kind == "worse"


def test_the_margin_and_the_level_can_be_chosen() -> None:
    loss = of_counts(600, 5, 40)
    assert judge([loss], margin=0.1)[0].kind == "non-inferior"
    loose, strict = judge([loss], MARGIN, alpha=0.2)[0], judge([loss], MARGIN, alpha=0.002)[0]
    assert strict.simultaneous.low < loose.simultaneous.low
    assert "99.8 % confidence" in str(judge([of_counts(600, 5, 6)], MARGIN, alpha=0.002)[0].reason)


def test_the_reason_says_whether_flips_exceed_those_of_the_repeated_baseline() -> None:
    before = [1.0, 0.0] * 300
    again = [1 - value if index < 12 else value for index, value in enumerate(before)]
    many = [1 - value if index < 60 else value for index, value in enumerate(before)]
    baseline, variant = two_scores(before, many)
    repeat = two_scores(before, again)[1].model_copy(update={"variant": baseline.variant, "repeat": 1})
    beyond, chance = compare(baseline, variant, repeat), compare(baseline, repeat, repeat)
    assert beyond
    assert chance
    assert judged(beyond).beyond_noise
    assert str(judged(beyond).reason).endswith(
        "; 10.0 % of the items flip, more than the 2.0 % when the baseline is asked again"
    )
    assert judged(chance).beyond_noise is False
    assert "not significantly more than" in str(judged(chance).reason)
    assert judged(of_counts(600, 5, 5)).beyond_noise is None


def test_a_bound_at_the_margin_is_inconclusive_and_a_p_value_at_the_level_a_loss() -> None:
    verdict = judged(of_counts(6000, 20, 22))
    bound = verdict.simultaneous

    def with_bound(low: float, p: float) -> Verdict:
        return verdict.model_copy(update={"simultaneous": bound.model_copy(update={"low": low}), "p_worse_holm": p})

    assert [with_bound(low, 1.0).kind for low in (-MARGIN, -0.999 * MARGIN)] == ["inconclusive", "non-inferior"]
    assert [with_bound(-MARGIN, p).kind for p in (ALPHA, 1.001 * ALPHA)] == ["worse", "inconclusive"]
    assert "at least 0.00 pp better" in str(with_bound(0.0, 1.0).reason)


def test_without_comparisons_there_are_no_verdicts() -> None:
    assert judge([], MARGIN) == ()


# Properties of any verdict

comparisons = st.builds(
    lambda gained, lost, same, subjects: of_counts(gained + lost + same, gained, lost, subjects),
    st.integers(0, 30), st.integers(0, 30), st.integers(12, 520), st.sampled_from([1, 12]),
)  # fmt: skip


@given(st.lists(comparisons, min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_the_verdict_can_be_read_off_the_intervals(family: list[Comparison]) -> None:
    for verdict in judge(family, MARGIN):
        if verdict.kind == "worse":
            assert verdict.comparison.delta.high < 1e-9
        if verdict.kind == "non-inferior":
            assert verdict.comparison.delta.low >= verdict.simultaneous.low > -MARGIN
        assert verdict.p_worse <= verdict.p_worse_holm <= 1
        assert verdict.mde >= verdict.comparison.mde


@given(st.integers(1, 700), st.sampled_from([1, 12]), st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_identical_scores_are_never_worse(n: int, subjects: int, count: int) -> None:
    assert judge([of_counts(n, 0, 0, subjects)] * count, MARGIN)[0].kind != "worse"


@given(st.lists(comparisons, min_size=2, max_size=4))
@settings(deadline=None, max_examples=20)
def test_more_comparisons_never_make_a_verdict_surer(family: list[Comparison]) -> None:
    alone, among = judge(family[:1], MARGIN)[0], judge(family, MARGIN)[0]
    assert among.p_worse_holm >= alone.p_worse_holm
    assert among.simultaneous.low <= alone.simultaneous.low
    if alone.kind == "inconclusive":
        assert among.kind == "inconclusive"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_textbook_procedure(p: list[float]) -> None:
    corrected = holm(np.array(p))
    largest = 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, p[index] * (len(p) - rank)))
        assert corrected[index] == pytest.approx(largest)


def test_holm_of_a_known_example() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


# Error rates


def p_values(sizes: Array, discordance: float, delta: float, between: float, rng: np.random.Generator) -> Array:
    """Return what ``Difference.p_below(0)`` gives for simulated scores, shape (repetitions,)."""
    before, after = simulated(sizes, discordance, delta, between, REPETITIONS, rng)
    mean, se, df = mean_of_units(*add_pair(after - before, sizes))
    p: Array = np.minimum(1, 2 * stdtr(df, mean / se))
    return p


def p_values_of_ifeval(discordance: float, rng: np.random.Generator) -> Array:
    lost, gained, _ = rng.multinomial(IFEVAL, [discordance / 2, discordance / 2, 1 - discordance], REPETITIONS).T
    p: Array = np.minimum(1, 2 * ndtr(score_z(gained, lost, IFEVAL, 0.0)))
    return p


@pytest.mark.parametrize("discordance", [0.02, 0.1])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_without_a_difference_at_most_5_percent_of_reports_call_anything_worse(
    discordance: float, between: float
) -> None:
    """Four variants on three tasks. Half of the 5 % is for losses, the other half for the other end."""
    rng = np.random.default_rng(11)
    p = []
    for _ in range(VARIANTS):
        p += [p_values(sizes, discordance, 0.0, between * discordance, rng) for sizes in (MMLU, CEVAL)]
        p.append(p_values_of_ifeval(discordance, rng))
    alone = np.stack(p, axis=-1) <= ALPHA
    assert alone.mean(axis=0).max() <= 0.05
    in_report = (holm(np.stack(p, axis=-1)) <= ALPHA).any(axis=-1)
    assert in_report.mean() <= 0.05


@pytest.mark.parametrize("n", [32, 100, 300, IFEVAL])
@pytest.mark.parametrize("discordance", [0.01, *DISCORDANCE])
def test_without_a_difference_few_items_are_called_worse_in_at_most_5_percent(n: int, discordance: float) -> None:
    gained, lost, probability = outcomes_of(n, discordance, 0.0)
    if n < IFEVAL:
        worse = single_bounds(gained, lost, n, ALPHA)[1] < 0
    else:
        worse = score_z(gained, lost, n, 0.0) < ndtri(ALPHA / 2)
    assert probability[worse].sum() <= 0.05


@pytest.mark.parametrize("sizes", [MMLU, CEVAL], ids=["mmlu", "ceval"])
@pytest.mark.parametrize("discordance", [0.015, *DISCORDANCE])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_a_loss_as_large_as_the_margin_is_called_non_inferior_in_at_most_5_percent(
    sizes: Array, discordance: float, between: float
) -> None:
    rng = np.random.default_rng(13)
    before, after = simulated(sizes, discordance, -MARGIN, between * discordance, REPETITIONS, rng)
    low, _ = clustered_bounds(after - before, sizes, ALPHA)
    assert (low > -MARGIN).mean() <= 0.05


@pytest.mark.parametrize("n", [32, 100, 240, 300, 400, 499, IFEVAL, 1000])
@pytest.mark.parametrize("discordance", [0.01, 0.012, 0.015, *DISCORDANCE])
def test_few_items_that_lose_the_margin_are_called_non_inferior_in_at_most_5_percent(
    n: int, discordance: float
) -> None:
    gained, lost, probability = outcomes_of(n, discordance, -MARGIN)
    if n < IFEVAL:
        fine = single_bounds(gained, lost, n, ALPHA)[0] > -MARGIN
    else:
        fine = score_z(gained, lost, n, -MARGIN) > ndtri(1 - ALPHA / 2)
    assert probability[fine].sum() <= 0.05


@pytest.mark.parametrize("sizes", [MMLU, CEVAL], ids=["mmlu", "ceval"])
@pytest.mark.parametrize("discordance", DISCORDANCE)
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_the_detectable_loss_is_found_in_80_percent(sizes: Array, discordance: float, between: float) -> None:
    rng = np.random.default_rng(17)
    before, after = simulated(sizes, discordance, 0.0, between * discordance, 2000, rng)
    loss = typical(sizes, after - before).detectable_loss()
    detected = p_values(sizes, discordance, -loss, between * discordance, rng) <= ALPHA
    assert 0.77 <= detected.mean() <= 0.83


@pytest.mark.parametrize("n", [100, 300, IFEVAL, 1000])
@pytest.mark.parametrize("discordance", DISCORDANCE)
def test_the_detectable_loss_of_few_items_is_found_in_80_percent(n: int, discordance: float) -> None:
    """Where too few change for any loss to be found, all that change are lost."""
    changed = round(discordance * n)
    loss = of_counts(n, changed // 2, changed - changed // 2).detectable_loss()
    gained, lost, probability = outcomes_of(n, max(discordance, loss), -loss)
    if n < IFEVAL:
        detected = single_bounds(gained, lost, n, ALPHA)[1] < 0
    else:
        detected = score_z(gained, lost, n, 0.0) < ndtri(ALPHA / 2)
    assert 0.77 <= probability[detected].sum() <= 0.83
