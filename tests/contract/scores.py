"""Whether two servers score the same items alike: the same picks, and log-probabilities within BF16's rounding."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.records.record import ItemOutcome, TaskScore

MOST_NATS = 0.3
"""How far one log-probability may be off. Logits of about 20 lie 0.125 apart in BF16, and two implementations add
up 30 layers in another order; measured maxima are in docs/contract-sglang.md."""
MEAN_NATS = 0.1
"""How far they may be off on average."""


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
        """Return what is wrong, a line each."""
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
    for one, two in pairs:
        off = [abs(a - b) for a, b in zip(one.logprobs, two.logprobs, strict=True)]
        gaps += off
        if off and one.answer != two.answer:
            other += 1
            # A pick moves when both choices do: by as much as the two together.
            unexplained += _margin(two, int(one.answer)) > 2 * max(off)
    n_choices = sum(len(one.logprobs) for one, _ in pairs)
    return Likeness(
        task=real.task,
        n_items=len(pairs),
        n_choices=n_choices,
        n_other_picks=other,
        n_unexplained=unexplained,
        mean_nats=sum(gaps) / max(1, n_choices),
        most_nats=max(gaps),
        n_same_texts=sum(one.answer == two.answer for one, two in pairs if not one.logprobs),
    )


def _margin(item: ItemOutcome, choice: int) -> float:
    return max(item.logprobs) - item.logprobs[choice]


def _paired(real: Iterable[ItemOutcome], reference: Iterable[ItemOutcome]) -> Iterable[tuple[ItemOutcome, ItemOutcome]]:
    def by_item(items: Iterable[ItemOutcome]) -> dict[tuple[str, int, str, str], ItemOutcome]:
        return {(item.task, item.doc_id, item.doc_hash, item.prompt_hash): item for item in items}

    one, two = by_item(real), by_item(reference)
    if one.keys() != two.keys():
        raise ValueError(f"{len(one.keys() ^ two.keys())} items were scored by one of the servers only")
    return ((one[key], two[key]) for key in one)
