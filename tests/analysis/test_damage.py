"""Where a variant loses: subjects, items, prompt lengths, engines."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis.damage import (
    BINS,
    FEWEST_IN_BIN,
    TwoByTwo,
    by_prompt_length,
    by_subject,
    changed_items,
    subject_note,
    two_by_two,
)
from bench.analysis.difference import spread
from bench.analysis.paired import compare
from bench.records.record import TaskScore
from tests.support.pairs import counts, item, task_score, two_scores


def of_subjects(parts: dict[str, tuple[int, int, int]]) -> tuple[TaskScore, TaskScore]:
    """Return scores whose subjects have these (items, gained, lost)."""
    before, after = [], []
    for subject, (n, gained, lost) in parts.items():
        for doc, (old, new) in enumerate(zip(*counts(n, gained, lost), strict=True)):
            before.append(item(subject, doc, old))
            after.append(item(subject, doc, new))
    return task_score(before), task_score(after, "fp8")


def of_lengths(lengths: Sequence[int | None]) -> tuple[TaskScore, TaskScore]:
    """Return scores of items with these prompts; the variant fails those longer than 1000 tokens."""
    before = [item("s", doc, 1.0, prompt_tokens=length) for doc, length in enumerate(lengths)]
    after = [item("s", doc, float((length or 0) <= 1000), prompt_tokens=length) for doc, length in enumerate(lengths)]
    return task_score(before), task_score(after, "fp8")


# Subjects


def test_the_subject_with_the_greatest_loss_comes_first() -> None:
    subjects = by_subject(*of_subjects({"fine": (100, 2, 2), "bad": (100, 0, 30), "better": (100, 6, 1)}))
    assert [subject.subject for subject in subjects] == ["bad", "fine", "better"]
    bad = subjects[0]
    assert (bad.n, bad.gained, bad.lost) == (100, 0, 30)
    assert bad.delta.value == pytest.approx(-0.3)
    assert bad.variant_mean - bad.baseline_mean == pytest.approx(-0.3)
    assert bad.delta.low < -0.3 < bad.delta.high < 0
    note = str(subject_note(subjects))
    assert note == "Of 3 subjects, 1 lost and 0 gained more than chance allows (corrected p up to 0.05)."


def test_a_subject_that_looks_bad_among_57_is_called_chance() -> None:
    parts = {f"s{index:02}": (100, 4, 4) for index in range(56)} | {"unlucky": (100, 1, 9)}
    subjects = by_subject(*of_subjects(parts))
    assert subjects[0].subject == "unlucky"
    assert subjects[0].p < 0.05 < subjects[0].p_holm
    assert str(subject_note(subjects)).startswith("None of 57 subjects differs by more than chance")


def test_a_subject_whose_mean_did_not_fall_is_not_among_the_lost() -> None:
    """One item gains as much as ten others lose together."""
    before, after = [0.0] + [1.0] * 10, [1.0] + [0.9] * 10
    (subject,) = by_subject(*two_scores(before, after))
    assert (subject.gained, subject.lost) == (1, 10)
    even = subject.model_copy(update={"delta": subject.delta.model_copy(update={"value": 0.0})})
    notes = [str(subject_note([even.model_copy(update={"p_holm": p})])) for p in (subject.p_holm, 0.05, 0.0501)]
    assert notes[0] == notes[1] == "Of 1 subject, 0 lost and 1 gained more than chance allows (corrected p up to 0.05)."
    assert "more than chance allows" not in notes[2]


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
@settings(deadline=None, max_examples=30)
def test_the_subjects_add_up_to_the_task(parts: dict[str, tuple[int, int]]) -> None:
    scores = of_subjects({subject: (20, *changed) for subject, changed in parts.items()})
    subjects, whole = by_subject(*scores), compare(*scores)
    assert whole
    assert sum(subject.n for subject in subjects) == whole.n
    assert sum(subject.lost for subject in subjects) == whole.lost
    assert sum(subject.gained for subject in subjects) == whole.gained
    assert sum(subject.n * subject.delta.value for subject in subjects) == pytest.approx(
        whole.n * whole.delta.value, abs=1e-9
    )


# Items


def test_changed_items_are_the_lost_and_the_gained_with_both_outcomes_clearest_first() -> None:
    before = [
        item("s", 0, 1.0, [-1.0, -1.1]),
        item("s", 1, 0.0, [-3.0, -1.0]),
        item("s", 2, 1.0, [-1.0, -2.0]),
    ]
    after = [
        item("s", 0, 0.0, [-1.1, -1.0]),  # nearly a tie
        item("s", 1, 1.0, [-1.0, -4.0]),  # moved by 2 + 3 nats
        item("s", 2, 1.0, [-1.0, -2.0]),
    ]
    changes = changed_items(task_score(before), task_score(after, "fp8"))
    assert [(change.baseline.doc_id, change.change) for change in changes] == [(1, "gained"), (0, "lost")]
    assert [change.margin_nats for change in changes] == pytest.approx([5.0, 0.2])
    assert (changes[0].baseline.answer, changes[0].variant.answer) == ("1", "0")


def test_generated_answers_have_no_margin() -> None:
    changes = changed_items(*two_scores([1, 1, 0], [0, 1, 1]))
    assert [(change.change, change.margin_nats) for change in changes] == [("lost", None), ("gained", None)]
    assert changes[0].variant.answer == "answer 0"
    partly = changed_items(*two_scores([0.5, 0.5, 0.5], [0.25, 1.0, 0.5]))
    assert [change.change for change in partly] == ["lost", "gained"]


@given(st.integers(0, 20), st.integers(0, 20))
@settings(deadline=None, max_examples=30)
def test_as_many_items_are_listed_as_are_counted(gained: int, lost: int) -> None:
    changes = changed_items(*two_scores(*counts(60, gained, lost)))
    assert [change.change for change in changes].count("gained") == gained
    assert [change.change for change in changes].count("lost") == lost


# Prompt lengths


def test_damage_to_long_prompts_shows_in_the_last_bin() -> None:
    bins = by_prompt_length(*of_lengths([*range(100, 400), *range(1001, 1101)]))
    assert bins
    assert [(part.shortest_tokens, part.longest_tokens, part.n) for part in bins] == [
        (100, 199, 100),
        (200, 299, 100),
        (300, 399, 100),
        (1001, 1100, 100),
    ]
    assert [part.delta.value for part in bins] == [0, 0, 0, -1]
    assert bins[-1].delta.high < 0 < bins[0].delta.high


def test_without_known_lengths_there_are_no_bins() -> None:
    assert by_prompt_length(*of_lengths([None] * 100)) is None


def test_too_few_items_for_a_mean_are_not_binned() -> None:
    assert by_prompt_length(*of_lengths(range(1, FEWEST_IN_BIN))) is None
    bins = by_prompt_length(*of_lengths(range(1, FEWEST_IN_BIN + 1)))
    assert bins
    assert [part.n for part in bins] == [FEWEST_IN_BIN]


@given(st.lists(st.none() | st.integers(1, 12), min_size=FEWEST_IN_BIN, max_size=150))
@settings(deadline=None, max_examples=60)
def test_bins_hold_every_known_length_once_and_enough_items(lengths: list[int | None]) -> None:
    known = [length for length in lengths if length]
    bins = by_prompt_length(*of_lengths(lengths)) or ()
    assert len(bins) <= BINS
    assert sum(part.n for part in bins) == (len(known) if len(known) >= FEWEST_IN_BIN else 0)
    assert all(part.n >= FEWEST_IN_BIN for part in bins)
    for earlier, later in pairwise(bins):
        assert earlier.longest_tokens < later.shortest_tokens


# Engines


def four(b1: float, v1: float, b2: float, v2: float, n: int = 400) -> TwoByTwo:
    """Return the table of four accuracies; the same items are right wherever the accuracy allows it."""
    scores = [
        task_score([item("s", doc, float(doc < round(share * n))) for doc in range(n)], quant, engine=engine)
        for engine, quant, share in (
            ("sglang", "bf16", b1),
            ("sglang", "fp8", v1),
            ("vllm", "bf16", b2),
            ("vllm", "fp8", v2),
        )
    ]
    table = two_by_two(*scores)
    assert table
    return table


def test_a_loss_that_comes_with_the_quantization_is_the_same_on_both_engines() -> None:
    table = four(0.6, 0.5, 0.6, 0.5)
    assert (table.n, table.engines) == (400, ("sglang", "vllm"))
    assert table.baseline_means == pytest.approx((0.6, 0.6))
    assert table.variant_means == pytest.approx((0.5, 0.5))
    assert [delta.value for delta in table.deltas] == pytest.approx([-0.1, -0.1])
    assert table.interaction.value == 0
    assert table.interaction.low < 0 < table.interaction.high
    assert str(table.reading).startswith("No difference seen between the changes on sglang and on vllm: +0.0 pp")


def test_a_loss_on_one_engine_alone_is_attributed_to_it() -> None:
    second = four(0.6, 0.6, 0.6, 0.5)
    assert second.interaction.value == pytest.approx(-0.1)
    assert second.interaction.high < 0
    assert str(second.reading).startswith("The variant does worse on vllm, so its weights are not the only cause")
    first = four(0.6, 0.5, 0.6, 0.6)
    assert first.interaction.low > 0
    assert "worse on sglang" in str(first.reading)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (-0.1, 0.0)])
def test_an_interval_that_reaches_zero_shows_no_difference_between_engines(low: float, high: float) -> None:
    table = four(0.6, 0.5, 0.6, 0.5)
    interaction = table.interaction.model_copy(update={"low": low, "high": high})
    assert str(table.model_copy(update={"interaction": interaction}).reading).startswith("No difference seen")


def test_what_the_engine_changes_for_all_is_no_interaction() -> None:
    table = four(0.6, 0.55, 0.5, 0.45)
    assert table.engine_gap.value == pytest.approx(-0.1)
    assert table.engine_gap.high < 0
    assert table.interaction.value == pytest.approx(0)


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_the_interval_of_the_interaction_covers_the_truth_in_94_percent_or_more(rate: float) -> None:
    """Items that the variant gets right on the second engine alone are twice as frequent as the other way round."""
    rng, subjects = np.random.default_rng(2), np.zeros(300, dtype=np.intp)
    shares = [rate / 2, rate, 1 - 1.5 * rate]
    ends = [spread(rng.choice([-1.0, 1.0, 0.0], 300, p=shares), subjects, pair=1.0).interval() for _ in range(3000)]
    assert np.mean([low <= rate / 2 <= high for low, high in ends]) >= 0.94


@pytest.mark.parametrize("which", range(4))
def test_scores_that_cannot_be_compared_have_no_damage(which: int) -> None:
    good = task_score([item("s", doc, 1.0, prompt_tokens=5) for doc in range(40)])
    bad = good.model_copy(update={"num_fewshot": 0})
    assert by_subject(good, bad) == ()
    assert changed_items(good, bad) == ()
    assert by_prompt_length(good, bad) is None
    assert two_by_two(*[bad if index == which else good for index in range(4)]) is None
