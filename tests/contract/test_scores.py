"""The comparison of two servers' scores, on scores whose likeness is known."""

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
    one = score(item(0, (-1.0, -2.0)), item(1, (), "yes"))
    found = likeness(one, one)
    assert found.wrong() == []
    assert (found.n_items, found.n_choices, found.n_other_picks, found.n_same_texts) == (2, 2, 0, 1)
    assert (found.mean_nats, found.most_nats) == (0, 0)


def test_a_pick_that_rounding_turned_is_counted_and_no_fault() -> None:
    found = likeness(score(item(0, (-1.0, -1.03))), score(item(0, (-1.04, -1.02))))
    assert (found.n_other_picks, found.n_unexplained) == (1, 0)
    assert found.mean_nats == pytest.approx(0.025)
    assert found.wrong() == []


def test_log_probabilities_that_are_far_off_are_a_fault() -> None:
    found = likeness(score(item(0, (-1.0, -3.0))), score(item(0, (-1.0, -3.0 - 2 * MOST_NATS))))
    assert found.wrong() == [
        f"mini-mmlu: log-probabilities differ by {2 * MOST_NATS:.3f} nats",
        f"mini-mmlu: log-probabilities differ by {MOST_NATS:.3f} nats on average",
    ]


def test_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="2 items were scored by one of the servers only"):
        likeness(score(item(0, (-1.0,))), score(item(1, (-1.0,))))
