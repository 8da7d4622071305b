"""Pairs of scores over the same items."""

from collections.abc import Sequence
from typing import Any

from bench.analysis.paired import Comparison, compare
from bench.records.record import ItemOutcome, Metric, TaskScore, Variant


def item(subject: str, doc: int, value: float, logprobs: Sequence[float] = (), **changes: Any) -> ItemOutcome:
    """Return one item; without log-probabilities its answer was generated."""
    answer = str(max(range(len(logprobs)), key=logprobs.__getitem__)) if logprobs else f"answer {value}"
    values: dict[str, Any] = {
        "task": subject, "doc_id": doc, "doc_hash": f"doc {doc}", "prompt_hash": f"prompt {doc}", "target": "0",
        "answer": answer, "logprobs": tuple(logprobs), "metrics": {"acc": value},
    }  # fmt: skip
    return ItemOutcome.model_validate(values | changes)


def task_score(items: Sequence[ItemOutcome], quant: str = "bf16", **changes: Any) -> TaskScore:
    """Return a score with these items."""
    values: dict[str, Any] = {
        "variant": Variant(model="m", quant=quant), "engine": "sglang", "task": "mmlu", "key": quant, "status": "ok",
        "reasons": (), "metrics": (Metric(name="acc", value=0.5, stderr=None),), "n_items": len(items),
        "num_fewshot": 5, "limit": None, "chat_template": False, "task_versions": {"mmlu": "2"}, "counts": {},
        "duration_s": 1.0, "items": tuple(items),
    }  # fmt: skip
    return TaskScore.model_validate(values | changes)


def two_scores(before: Sequence[float], after: Sequence[float], subjects: int = 1) -> tuple[TaskScore, TaskScore]:
    """Return scores of the same items, dealt out to the subjects in turn."""
    return tuple(  # type: ignore[return-value]
        task_score([item(f"s{doc % subjects}", doc, value) for doc, value in enumerate(values)], quant)
        for quant, values in (("bf16", before), ("fp8", after))
    )


def comparison(before: Sequence[float], after: Sequence[float], subjects: int = 1) -> Comparison:
    change = compare(*two_scores(before, after, subjects))
    assert change
    return change


def counts(n: int, gained: int, lost: int) -> tuple[list[float], list[float]]:
    """Return before and after of n items."""
    rest = [float(index % 2) for index in range(n - gained - lost)]
    return [0.0] * gained + [1.0] * lost + rest, [1.0] * gained + [0.0] * lost + rest
