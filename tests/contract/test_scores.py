"""The comparison of two servers' scores, on scores with known differences."""

import pytest

from bench.records.record import ItemOutcome, TaskScore, Variant
from tests.contract.scores import MOST_NATS, likeness


def item(doc_id: int, logprobs: tuple[float, ...], answer: str | None = None) -> ItemOutcome:
    picked = str(max(range(len(logprobs)), key=logprobs.__getitem__)) if logprobs else str(answer)
    return ItemOutcome(
        task="leaf", doc_id=doc_id, doc_hash="d", prompt_hash="p", target="0", answer=picked,
        logprobs=logprobs, metrics={},
    )  # fmt: skip


def score(*items: ItemOutcome) -> TaskScore:
    return TaskScore(
        variant=Variant(model="m", quant="bf16"), engine="e", task="mini-mmlu", key="k", status="ok", reasons=(),
        metrics=(), n_items=len(items), num_fewshot=0, limit=None, chat_template=False, task_versions={}, counts={},
        duration_s=1, items=items,
    )  # fmt: skip


def test_a_server_is_like_itself() -> None:
    own = score(item(0, (-1.0, -2.0)), item(1, (), "yes"))
    same = likeness(own, own)
    assert same.wrong() == []
    assert (same.n_items, same.n_choices, same.n_other_picks, same.n_same_texts) == (2, 2, 0, 1)
    assert (same.mean_nats, same.most_nats) == (0, 0)


def test_a_pick_that_rounding_changed_is_counted_and_is_no_fault() -> None:
    rounded = likeness(score(item(0, (-1.0, -1.03))), score(item(0, (-1.04, -1.02))))
    assert (rounded.n_other_picks, rounded.n_unexplained) == (1, 0)
    assert rounded.mean_nats == pytest.approx(0.025)
    assert rounded.wrong() == []


def test_large_differences_of_log_probabilities_are_a_fault() -> None:
    far = likeness(score(item(0, (-1.0, -3.0))), score(item(0, (-1.0, -3.0 - 2 * MOST_NATS))))
    assert far.wrong() == [
        f"mini-mmlu: log-probabilities differ by {2 * MOST_NATS:.3f} nats",
        f"mini-mmlu: log-probabilities differ by {MOST_NATS:.3f} nats on average",
    ]


def test_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="2 items were scored by one of the servers only"):
        likeness(score(item(0, (-1.0,))), score(item(1, (-1.0,))))
