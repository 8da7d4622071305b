"""Where a variant loses: in which subjects, on which items, at which prompt lengths, on which engine. Pure functions.

None of this changes a verdict: it is exploratory, and of 57 subjects some look bad by chance alone.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from bench.analysis.difference import ALPHA, Difference, Labels, difference, spread
from bench.analysis.estimate import Estimate
from bench.analysis.paired import Pairs, pair
from bench.analysis.verdict import holm
from bench.messages.message import Words, msg
from bench.records.record import ItemOutcome, TaskScore, Variant
from quantize.key import Frozen

FEWEST_IN_BIN = 20
"""Items from which a bin of prompt lengths is given a mean. Chosen: with 20 its standard error is 11 pp at most."""
BINS = 4
"""Bins of prompt lengths at most. Chosen: quarters; more would hold too few items each."""


class SubjectDamage(Frozen):
    """What changed on one leaf task."""

    subject: str
    n: int
    baseline_mean: float
    """Mean score, 0 to 1."""
    variant_mean: float
    """The same, 0 to 1."""
    delta: Estimate
    """variant - baseline; the interval is for this subject alone."""
    gained: int
    lost: int
    p: float
    """P value of an exact two-sided McNemar (sign) test."""
    p_holm: float
    """The same p value, corrected for the number of subjects (Holm): the one to read."""


class ChangedItem(Frozen):
    """An item on which the two runs score differently."""

    change: Literal["lost", "gained"]
    baseline: ItemOutcome
    variant: ItemOutcome
    margin_nats: float | None
    """Change in log-probability between the two picks, nats: near 0, a near tie was resolved the other way. None for
    generated answers."""


class LengthBin(Frozen):
    """Items whose prompts are about equally long."""

    shortest_tokens: int
    longest_tokens: int
    n: int
    baseline_mean: float
    """Mean score, 0 to 1."""
    variant_mean: float
    """The same, 0 to 1."""
    delta: Estimate
    """variant - baseline; the interval is for this bin alone."""


class TwoByTwo(Frozen):
    """Baseline and variant on two engines, over the items that all four have."""

    task: str
    baseline: Variant
    variant: Variant
    engines: tuple[str, str]
    n: int
    baseline_means: tuple[float, float]
    """Mean score on each engine, 0 to 1."""
    variant_means: tuple[float, float]
    """The same of the variant, 0 to 1."""
    deltas: tuple[Estimate, Estimate]
    """variant - baseline on each engine."""
    engine_gap: Estimate
    """Baseline on the second engine - baseline on the first: what the engine alone changes."""
    interaction: Estimate
    """Second delta - first; 0 if quantization costs the same on both engines."""

    @property
    def reading(self) -> Words:
        """The interaction in one sentence."""
        interaction = self.interaction
        change, low, high = (
            f"{100 * bound:+.1f}".replace("-", "\u2212")
            for bound in (interaction.value, interaction.low, interaction.high)
        )
        first, second = self.engines
        if interaction.low <= 0 <= interaction.high:
            return msg("interaction.none", first=first, second=second, change=change, low=low, high=high)
        more = second if interaction.high < 0 else first
        return msg("interaction.some", engine=more, change=change, low=low, high=high)


def _subset(pairs: Pairs, chosen: Labels) -> Difference:
    """Return the difference over some of the items of two scores."""
    before, after = (values[chosen] for values in pairs.values)
    _, subjects = np.unique(pairs.subjects[chosen], return_inverse=True)
    return difference(before, after, subjects)


def by_subject(baseline: TaskScore, variant: TaskScore) -> tuple[SubjectDamage, ...]:
    """Return the leaf tasks, greatest loss first; empty if the scores cannot be compared."""
    pairs = pair(baseline, variant)
    if pairs is None:
        return ()
    names = sorted({key.task for key in pairs.ids})
    changes = [_subset(pairs, np.flatnonzero(pairs.subjects == index)) for index in range(len(names))]
    corrected = holm(np.array([change.mcnemar_p for change in changes]))
    subjects = [
        SubjectDamage(
            subject=name,
            n=change.n,
            baseline_mean=change.baseline_mean,
            variant_mean=change.variant_mean,
            delta=change.delta,
            gained=change.gained,
            lost=change.lost,
            p=change.mcnemar_p,
            p_holm=float(p),
        )
        for name, change, p in zip(names, changes, corrected, strict=True)
    ]
    return tuple(sorted(subjects, key=lambda subject: subject.delta.value))


def subject_note(subjects: Sequence[SubjectDamage]) -> Words:
    """Return a sentence on how many differences are significant, to be shown with the table."""
    real = [subject for subject in subjects if subject.p_holm <= ALPHA]
    lost = sum(subject.delta.value < 0 for subject in real)
    if not real:
        return msg("subjects.by_chance", n=len(subjects))
    gained = str(len(real) - lost)
    return msg("subjects.beyond_chance", n=len(subjects), lost=str(lost), gained=gained, p=f"{ALPHA:g}")


def _margin(before: ItemOutcome, after: ItemOutcome) -> float | None:
    if not before.logprobs or len(before.logprobs) != len(after.logprobs):
        return None
    old_pick, new_pick = int(before.answer), int(after.answer)
    return before.logprobs[old_pick] - before.logprobs[new_pick] + after.logprobs[new_pick] - after.logprobs[old_pick]


def changed_items(baseline: TaskScore, variant: TaskScore) -> tuple[ChangedItem, ...]:
    """Return the items lost and gained: choices first, clearest first; then generated answers. Empty if none pair."""
    pairs = pair(baseline, variant)
    if pairs is None:
        return ()
    values = pairs.values[1] - pairs.values[0]
    changes = [
        ChangedItem(change="lost" if value < 0 else "gained", baseline=old, variant=new, margin_nats=_margin(old, new))
        for old, new, value in zip(*pairs.items, values, strict=True)
        if value
    ]
    return tuple(sorted(changes, key=lambda item: -1.0 if item.margin_nats is None else item.margin_nats, reverse=True))


def _length_ranges(lengths: Labels) -> list[tuple[int, int]]:
    """Return the shortest and the longest length of each bin."""
    ordered = np.sort(lengths)
    enough = max(FEWEST_IN_BIN, len(ordered) / BINS)
    starts = [0]
    for end in np.flatnonzero(np.diff(ordered)) + 1:
        if end - starts[-1] >= enough and len(ordered) - end >= FEWEST_IN_BIN:
            starts.append(int(end))
    if len(ordered) < FEWEST_IN_BIN:
        return []
    return [(int(part[0]), int(part[-1])) for part in np.split(ordered, starts[1:])]


def by_prompt_length(baseline: TaskScore, variant: TaskScore) -> tuple[LengthBin, ...] | None:
    """Return up to four bins with about the same number of items, shortest prompts first.

    Items of one length stay together. None if no length is known, nothing pairs, or there are too few items for a bin.
    """
    pairs = pair(baseline, variant)
    if pairs is None:
        return None
    lengths = np.array(
        [before.prompt_tokens or after.prompt_tokens or 0 for before, after in zip(*pairs.items, strict=True)]
    )
    bins = []
    for shortest, longest in _length_ranges(lengths[lengths > 0]):
        subset = _subset(pairs, np.flatnonzero((shortest <= lengths) & (lengths <= longest)))
        bins.append(
            LengthBin(
                shortest_tokens=shortest,
                longest_tokens=longest,
                n=subset.n,
                baseline_mean=subset.baseline_mean,
                variant_mean=subset.variant_mean,
                delta=subset.delta,
            )
        )
    return tuple(bins) or None


def two_by_two(
    baseline_1: TaskScore, variant_1: TaskScore, baseline_2: TaskScore, variant_2: TaskScore
) -> TwoByTwo | None:
    """Return whether a loss is due to the quantization or to an engine; None if any two scores cannot be compared.

    Args:
        baseline_1: baseline on the first engine.
        variant_1: variant on the first engine.
        baseline_2: baseline on the second engine.
        variant_2: variant on the second engine.
    """
    pairs = pair(baseline_1, variant_1, baseline_2, variant_2)
    if pairs is None:
        return None
    before_1, after_1, before_2, after_2 = pairs.values
    first, second = (difference(*values, pairs.subjects) for values in ((before_1, after_1), (before_2, after_2)))
    engines = difference(before_1, before_2, pairs.subjects)
    changes = (after_2 - before_2) - (after_1 - before_1)
    low, high = spread(changes, pairs.subjects, pair=1.0).interval()
    return TwoByTwo(
        task=baseline_1.task,
        baseline=baseline_1.variant,
        variant=variant_1.variant,
        engines=(baseline_1.engine, baseline_2.engine),
        n=first.n,
        baseline_means=(first.baseline_mean, second.baseline_mean),
        variant_means=(first.variant_mean, second.variant_mean),
        deltas=(first.delta, second.delta),
        engine_gap=engines.delta,
        interaction=Estimate(value=float(changes.mean()), low=low, high=high),
    )
