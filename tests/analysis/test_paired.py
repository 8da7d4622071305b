"""Comparison of two scores: pairing, the figures, and the coverage of their intervals."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit
from scipy.stats import binomtest, entropy

from bench.analysis.difference import FEWEST_CLUSTERS, FEWEST_FOR_SCORE, bootstrap_means
from bench.analysis.paired import compare, item_values, main_metric, obstacle, pair
from bench.records.record import Metric
from testkit.records import score as recorded_score
from tests.support.pairs import comparison, counts, item, task_score, two_scores

right_or_wrong = st.lists(st.tuples(*[st.sampled_from([0.0, 1.0])] * 2), min_size=1, max_size=60)
partly_right = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2), min_size=1, max_size=60)
any_items = right_or_wrong | partly_right
some_subjects = st.sampled_from([1, 2, 12])


# Pairing


def test_the_main_metric_is_the_first_that_is_listed_and_its_first_filter() -> None:
    listed = task_score(
        [
            item("s", 0, 0.0, metrics={"exact_match": 1.0}),
            item("s", 0, 0.0, metrics={"exact_match": 0.0}),  # the same item under the second filter
            item("s", 1, 0.0, metrics={"other": 1.0}),
        ],
        metrics=(
            Metric(name="exact_match,strict", value=1, stderr=None),
            Metric(name="exact_match,flexible", value=0, stderr=None),
            Metric(name="other,strict", value=1, stderr=None),
        ),
    )
    assert main_metric(listed) == "exact_match"
    assert item_values(listed) == {("s", 0, "doc 0", "prompt 0"): 1.0}


@pytest.mark.parametrize(
    "change", [{"doc_id": 9}, {"doc_hash": "other"}, {"prompt_hash": "other"}, {"task": "other subject"}]
)
def test_items_pair_only_if_document_prompt_and_subject_are_the_same(change: dict[str, Any]) -> None:
    items = [item("s", doc, 1.0) for doc in range(3)]
    difference = compare(task_score(items), task_score([items[0].model_copy(update=change), *items[1:]], "fp8"))
    assert difference
    assert (difference.n, difference.unpaired) == (2, 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "failed"}, "the variant has no score: failed"),
        ({"status": "invalid"}, "the variant has no score: invalid"),
        ({"task": "ceval-valid"}, "different tasks: mmlu and ceval-valid"),
        ({"num_fewshot": 0}, "different numbers of few-shot examples: 5 and 0"),
        ({"chat_template": True}, "different chat template settings: False and True"),
        ({"thinking": False}, "different thinking settings: None and False"),
        ({"task_versions": {"mmlu": "3"}}, "different versions of mmlu: 2 and 3"),
        ({"metrics": (Metric(name="acc_norm", value=0.5, stderr=None),)}, "different metrics: acc and acc_norm"),
        ({"items": ()}, "no item with the same document and prompt in both"),
    ],
)
def test_scores_asked_in_different_ways_are_not_compared_and_it_says_why(change: dict[str, Any], why: str) -> None:
    baseline = task_score([item("s", 0, 1.0)])
    other = baseline.model_copy(update=change)
    assert str(obstacle(baseline, other)) == why
    assert compare(baseline, other) is None


def test_the_version_of_a_task_that_only_one_score_has_is_not_compared() -> None:
    baseline = task_score([item("s", 0, 1.0)])
    more = baseline.model_copy(update={"task_versions": {**baseline.task_versions, "mmlu_law": "1"}})
    assert obstacle(baseline, more) is None
    assert obstacle(more, baseline) is None


def test_a_baseline_without_a_score_is_named() -> None:
    baseline = task_score([item("s", 0, 1.0)])
    failed = baseline.model_copy(update={"status": "failed"})
    assert str(obstacle(failed, baseline)) == "the baseline has no score: failed"


@pytest.mark.parametrize("value", [-0.1, 1.1, 17.3])
def test_a_metric_that_is_not_a_share_is_not_compared(value: float) -> None:
    baseline = task_score([item("s", 0, value)])
    assert str(obstacle(baseline, baseline)) == "acc of an item is not between 0 and 1"


def test_emulated_accuracy_counts() -> None:
    baseline, variant = two_scores([1, 0], [1, 1])
    assert compare(baseline, variant.model_copy(update={"status": "emulated"}))


def test_a_limit_leaves_the_items_that_both_have() -> None:
    baseline, variant = two_scores([1] * 20, [1] * 20)
    difference = compare(baseline, variant.model_copy(update={"items": variant.items[:5], "limit": 5}))
    assert difference
    assert (difference.n, difference.unpaired) == (5, 15)


def test_scores_as_runs_leave_them_compare() -> None:
    difference = compare(recorded_score("bf16", "mini-mmlu"), recorded_score("gptq-int4", "mini-mmlu"))
    assert difference
    assert (difference.task, difference.metric) == ("mini-mmlu", "acc")
    assert (difference.variant.quant, difference.clusters) == ("gptq-int4", 3)


def test_only_what_all_scores_have_pairs() -> None:
    items = [item("s", doc, 1.0) for doc in range(4)]
    scores = [task_score(items), task_score(items[:3]), task_score(items[1:])]
    pairs = pair(*scores)
    assert pairs
    assert [key.doc_id for key in pairs.ids] == [1, 2]
    assert pair(task_score(items[:2]), task_score(items[1:3]), task_score(items[:1])) is None


# The figures


def test_a_worked_example() -> None:
    """Ten items: one gained, three lost; the baseline has 6 right, the variant 4."""
    before, after = [0, 1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    difference = comparison(before, after)
    assert (difference.n, difference.gained, difference.lost, difference.clusters) == (10, 1, 3, 1)
    assert (difference.baseline_mean, difference.variant_mean) == (0.6, 0.4)
    assert difference.delta.value == pytest.approx(-0.2)
    assert difference.flip_rate == 0.4
    assert difference.mcnemar_p == pytest.approx(2 * (1 + 4) / 16)  # 0 or 1 of 4 heads, on either side
    # Differences 1, -1, -1, -1 and six 0; squared distances from -0.2: 1.44 + 3 * 0.64 + 6 * 0.04 = 3.6.
    assert difference.paired_se == pytest.approx(math.sqrt(3.6 / 9 / 10))
    assert difference.clustered_se is None
    assert difference.recovery
    assert difference.recovery.value == pytest.approx(2 / 3)
    # With one gained and one lost added: 12 items, mean -1/6, squares 6 - 12 / 36.
    assert difference.spread.mean == pytest.approx(-1 / 6)
    assert difference.spread.se == pytest.approx(math.sqrt((6 - 12 / 36) / 11 / 12))


def test_a_standard_error_needs_two_items_or_two_subjects() -> None:
    single, pair_of_items, pair_of_subjects = (
        comparison([1] * n, [0] + [1] * (n - 1), subjects) for n, subjects in ((1, 1), (2, 1), (2, 2))
    )
    assert (single.paired_se, single.clustered_se) == (None, None)
    assert (pair_of_items.paired_se, pair_of_items.clustered_se) == (pytest.approx(0.5), None)
    assert (pair_of_subjects.paired_se, pair_of_subjects.clustered_se) == pytest.approx((0.5, 0.5))


def test_the_clustered_standard_error_by_hand() -> None:
    """Three subjects of 2, 3 and 5 items that lost 1, 0 and 2: residuals -0.4, 0.9, -0.5 around -0.3."""
    subjects = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    lost = [1, 0, 0, 0, 0, 1, 1, 0, 0, 0]
    before = task_score([item(f"s{subject}", doc, 1.0) for doc, subject in enumerate(subjects)])
    after = task_score([item(f"s{subjects[doc]}", doc, 1.0 - loss) for doc, loss in enumerate(lost)], "fp8")
    difference = compare(before, after)
    assert difference
    by_hand = math.sqrt(0.4**2 / (1 - 0.2) + 0.9**2 / (1 - 0.3) + 0.5**2 / (1 - 0.5)) / 10
    assert difference.clustered_se == pytest.approx(by_hand)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    difference = comparison(*counts(130, gained, lost))
    expected = binomtest(lost, gained + lost).pvalue if gained + lost else 1.0
    assert difference.mcnemar_p == pytest.approx(expected)


def test_items_that_are_partly_right_are_counted_by_their_sign() -> None:
    difference = comparison([0.5, 1.0, 0.25, 0.5], [1.0, 0.5, 0.5, 0.5])
    assert (difference.gained, difference.lost, difference.method) == (2, 1, "t")


def test_the_method_follows_from_the_task_and_not_from_the_answers() -> None:
    many = counts(FEWEST_FOR_SCORE, 3, 5)
    assert comparison(*many).method == "score"
    assert comparison(*many, subjects=FEWEST_CLUSTERS - 1).method == "score"
    assert comparison(*many, subjects=FEWEST_CLUSTERS).method == "clustered t"
    assert comparison(*counts(FEWEST_FOR_SCORE - 1, 3, 5)).method == "t"
    assert comparison([0.5] * 600, [0.25] * 600).method == "t"


def test_without_a_baseline_above_zero_there_is_no_recovery() -> None:
    assert comparison([0, 0, 0], [0, 1, 0]).recovery is None


def test_choice_kl_is_the_mean_over_items_of_the_textbook_divergence() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(-2, 1, (2, 30, 4))
    baseline, variant = (
        task_score([item("s", doc, 1.0, row.tolist()) for doc, row in enumerate(side)]) for side in (before, after)
    )
    difference = compare(baseline, variant)
    assert difference
    assert difference.choice_kl_nats
    expected = [entropy(np.exp(p), np.exp(q)) for p, q in zip(before, after, strict=True)]  # sums are made 1 by scipy
    assert difference.choice_kl_nats.value == pytest.approx(np.mean(expected))
    half = stdtrit(29, 0.975) * np.std(expected, ddof=1) / math.sqrt(30)
    assert difference.choice_kl_nats.high == pytest.approx(np.mean(expected) + half)


def test_choice_kl_takes_items_with_different_numbers_of_choices() -> None:
    before = [item("s", 0, 1.0, [-1.0, -1.0]), item("s", 1, 1.0, [-1.0, -2.0, -3.0])]
    after = [item("s", 0, 1.0, [-1.0, -1.0]), item("s", 1, 1.0, [-1.0, -2.0, -4.0])]
    difference = compare(task_score(before), task_score(after))
    assert difference
    assert difference.choice_kl_nats
    expected = entropy(np.exp([-1.0, -2, -3]), np.exp([-1.0, -2, -4])) / 2
    assert difference.choice_kl_nats.value == pytest.approx(expected)


def test_choice_kl_leaves_out_what_has_no_number() -> None:
    good = [item("s", doc, 1.0, [-1.0, -2.0]) for doc in range(3)]
    bad = [*good[:2], item("s", 2, 1.0, [-1.0, -math.inf])]
    difference = compare(task_score(good), task_score(bad))
    assert difference
    assert difference.choice_kl_nats
    assert difference.choice_kl_nats.value == 0


def test_generated_answers_have_no_choice_kl() -> None:
    assert comparison([1, 0], [0, 0]).choice_kl_nats is None


def test_a_repeat_shows_what_flips_by_chance() -> None:
    before = [1.0, 0.0] * 300
    again = [1 - value if index < 12 else value for index, value in enumerate(before)]
    other = [1 - value if index % 4 == 0 else value for index, value in enumerate(before)]
    baseline, variant = two_scores(before, other)
    repeat = two_scores(before, again)[1].model_copy(update={"repeat": 1, "variant": baseline.variant})
    difference = compare(baseline, variant, repeat)
    assert difference
    assert difference.noise
    assert difference.noise.n == 600
    assert difference.noise.flip_rate == pytest.approx(0.02)
    assert difference.noise.excess.value == pytest.approx(0.23)
    assert difference.noise.excess.low > 0
    like_chance = compare(baseline, repeat, repeat)
    assert like_chance
    assert like_chance.noise
    assert like_chance.noise.excess.value == 0
    floor = compare(baseline, repeat)
    assert floor
    assert floor.noise is None
    assert floor.flip_rate == pytest.approx(0.02)


def test_a_repeat_with_other_settings_is_ignored() -> None:
    baseline, variant = two_scores([1, 0], [1, 1])
    difference = compare(baseline, variant, baseline.model_copy(update={"num_fewshot": 0}))
    assert difference
    assert difference.noise is None


# Properties of any items


@given(any_items, some_subjects)
@settings(deadline=None)
def test_swapping_the_two_turns_the_signs(pairs: list[tuple[float, float]], subjects: int) -> None:
    before, after = zip(*pairs, strict=True)
    forward, backward = comparison(before, after, subjects), comparison(after, before, subjects)
    assert forward.delta.value == -backward.delta.value
    assert (forward.delta.low, forward.delta.high) == pytest.approx(
        (-backward.delta.high, -backward.delta.low), abs=1e-9
    )
    assert (forward.gained, forward.lost) == (backward.lost, backward.gained)
    assert forward.mcnemar_p == backward.mcnemar_p
    assert forward.mde == pytest.approx(backward.mde)


@given(any_items, some_subjects)
@settings(deadline=None)
def test_identical_scores_show_no_difference(pairs: list[tuple[float, float]], subjects: int) -> None:
    values = [value for value, _ in pairs]
    difference = comparison(values, values, subjects)
    assert difference.delta.value == 0
    assert difference.delta.low < 0 < difference.delta.high
    assert (difference.gained, difference.lost, difference.flip_rate, difference.mcnemar_p) == (0, 0, 0, 1)
    assert difference.p_below() == 1
    assert difference.recovery is None or difference.recovery.value == 1


@given(any_items, some_subjects, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_items_does_not_matter(
    pairs: list[tuple[float, float]], subjects: int, order: random.Random
) -> None:
    scores = two_scores([before for before, _ in pairs], [after for _, after in pairs], subjects)
    before, after = (score.model_copy(update={"items": order.sample(score.items, len(pairs))}) for score in scores)
    assert compare(*scores) == compare(before, after)


@given(any_items, some_subjects)
@settings(deadline=None)
def test_intervals_contain_the_estimate(pairs: list[tuple[float, float]], subjects: int) -> None:
    before, after = zip(*pairs, strict=True)
    difference = comparison(before, after, subjects)
    for estimate in (difference.delta, difference.bootstrap, difference.recovery):
        if estimate is not None:
            assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9
    assert difference.delta.low >= -1
    assert difference.delta.high <= 1
    assert difference.mde > 0


@given(any_items, some_subjects, st.sampled_from([0.0, -0.01, -0.1, 0.2]))
@settings(deadline=None)
def test_the_test_and_the_interval_agree(pairs: list[tuple[float, float]], subjects: int, bound: float) -> None:
    before, after = zip(*pairs, strict=True)
    difference = comparison(before, after, subjects)
    p = difference.p_below(bound)
    _, high = difference.interval(0.95)
    if abs(high - bound) > 1e-6 and high < 1:
        assert (p < 0.05) == (high < bound)


@given(any_items)
@settings(deadline=None)
def test_items_lost_only_make_it_worse(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    worse = [0.0] * len(after)
    difference, loss = comparison(before, after), comparison(before, worse)
    assert loss.delta.value <= difference.delta.value
    assert loss.lost >= difference.lost


@pytest.mark.parametrize("subjects", [1, 57])
def test_the_bootstrap_agrees_with_the_interval_where_there_are_many_items(subjects: int) -> None:
    rng = np.random.default_rng(5)
    before = rng.integers(0, 2, 4000).astype(float)
    after = np.where(rng.random(4000) < 0.1, 1 - before, before)
    difference = comparison(before.tolist(), after.tolist(), subjects)
    width = difference.delta.high - difference.delta.low
    assert difference.bootstrap.low == pytest.approx(difference.delta.low, abs=0.1 * width)
    assert difference.bootstrap.high == pytest.approx(difference.delta.high, abs=0.1 * width)


def test_the_bootstrap_interval_leaves_out_a_fortieth_of_the_means_at_each_end() -> None:
    before, after = counts(400, 30, 50)
    ends = np.quantile(bootstrap_means(np.subtract(after, before), np.zeros(400, dtype=np.intp)), (0.025, 0.975))
    bootstrap = comparison(before, after).bootstrap
    assert (bootstrap.low, bootstrap.high) == pytest.approx(tuple(ends))
