"""Whether two servers score the same items alike: the same picks, and log-probabilities within BF16's rounding."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.records.record import ItemOutcome, TaskScore

MOST_NATS = 0.3
"""Largest difference allowed for one log-probability. In BF16, logits of about 20 are 0.125 apart, and the two
implementations sum 30 layers in a different order; docs/contract-sglang.md has measured maxima."""
MEAN_NATS = 0.1
"""Largest difference allowed on average."""


@dataclass(frozen=True)
class Likeness:
    """How alike two servers scored one task."""

    task: str
    n_items: int
    n_choices: int
    n_other_picks: int
    n_unexplained: int
    """Other picks whose margin is larger than what the two servers' log-probabilities differ by."""
    mean_nats: float
    """Mean absolute difference of the log-probabilities."""
    most_nats: float
    n_same_texts: int
    """Generated answers that are the same to the last character."""

    def wrong(self) -> list[str]:
        """Return one line for each fault."""
        facts = {
            f"{self.n_unexplained} picks differ by more than rounding": self.n_unexplained == 0,
            f"log-probabilities differ by {self.most_nats:.3f} nats": self.most_nats <= MOST_NATS,
            f"log-probabilities differ by {self.mean_nats:.3f} nats on average": self.mean_nats <= MEAN_NATS,
        }
        return [f"{self.task}: {text}" for text, holds in facts.items() if not holds]


def likeness(real: TaskScore, reference: TaskScore) -> Likeness:
    """Compare two scores of the same task item by item.

    Raises:
        ValueError: they are not over the same items and prompts.
    """
    pairs = list(_paired(real.items, reference.items))
    gaps, other, unexplained = [0.0], 0, 0
    for item, expected in pairs:
        off = [abs(a - b) for a, b in zip(item.logprobs, expected.logprobs, strict=True)]
        gaps += off
        if off and item.answer != expected.answer:
            other += 1
            # The gap between two choices can change by the differences of both, hence the 2.
            unexplained += _margin(expected, int(item.answer)) > 2 * max(off)
    n_choices = sum(len(item.logprobs) for item, _ in pairs)
    return Likeness(
        task=real.task,
        n_items=len(pairs),
        n_choices=n_choices,
        n_other_picks=other,
        n_unexplained=unexplained,
        mean_nats=sum(gaps) / max(1, n_choices),
        most_nats=max(gaps),
        n_same_texts=sum(item.answer == expected.answer for item, expected in pairs if not item.logprobs),
    )


def _margin(item: ItemOutcome, choice: int) -> float:
    return max(item.logprobs) - item.logprobs[choice]


def _paired(real: Iterable[ItemOutcome], reference: Iterable[ItemOutcome]) -> Iterable[tuple[ItemOutcome, ItemOutcome]]:
    def by_item(items: Iterable[ItemOutcome]) -> dict[tuple[str, int, str, str], ItemOutcome]:
        return {(item.task, item.doc_id, item.doc_hash, item.prompt_hash): item for item in items}

    items, expected = by_item(real), by_item(reference)
    if items.keys() != expected.keys():
        raise ValueError(f"{len(items.keys() ^ expected.keys())} items were scored by one of the servers only")
    return ((items[key], expected[key]) for key in items)
