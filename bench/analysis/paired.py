"""Compare a variant's score with the baseline's, item by item. Pure functions.

Both runs answered the same items, so each item is its own control: the test is of the differences on each item, not of
two scores with an error bar each.

A task's score is the mean over its items: lm-eval weights the subjects of ``mmlu`` and ``ceval-valid`` by their size
(``weight_by_size`` in its files), which is the same. So the difference of two means over items is that of the scores.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr, softmax

from bench.analysis.difference import (
    CONFIDENCE,
    Array,
    Difference,
    Labels,
    bootstrap_means,
    by_subject,
    difference,
    mean_of_units,
    spread,
)
from bench.analysis.estimate import Estimate
from bench.messages.message import Words, msg
from bench.records.record import ItemOutcome, TaskScore, Variant
from bench.records.words import STATUS
from quantize.key import Frozen


class ItemId(NamedTuple):
    """The identity of an item across runs."""

    task: str
    """The leaf task, e.g. one MMLU subject."""
    doc_id: int
    doc_hash: str
    prompt_hash: str


Outcomes = dict[ItemId, ItemOutcome]


class Noise(Frozen):
    """Flips between two runs of the baseline over the same items in another order, which happen by chance alone."""

    n: int
    """Items in common of baseline, repeat and variant."""
    flip_rate: float
    """Share of these items on which the repeat's score differs from the baseline's."""
    excess: Estimate
    """Flip rate of the variant - flip rate of the repeat; above 0 if the variant flips more than chance."""


class Comparison(Difference):
    """Comparison of one variant with the baseline on one task, over the items that both have."""

    task: str
    baseline: Variant
    variant: Variant
    baseline_engine: str
    variant_engine: str
    metric: str
    """The first that lm-eval lists, without its answer filter."""
    unpaired: int
    """Items that only one of the two has."""
    paired_se: float | None
    """Standard error, of 1, if items were drawn at random; None for a single item."""
    clustered_se: float | None
    """Standard error (CR2), of 1, if subjects were drawn at random; None for a single subject."""
    bootstrap: Estimate
    """The difference with a percentile-bootstrap interval, as a check; no verdict uses it."""
    recovery: Estimate | None
    """Variant's mean / baseline's; None where the baseline's is 0."""
    choice_kl_nats: Estimate | None
    """Mean KL(baseline || variant) over the choices of an item, nats; None for generated answers."""
    noise: Noise | None
    """None if the baseline was not repeated."""

    @property
    def mde(self) -> float:
        """Smallest true loss that is called worse with 80 % power, if this is the only comparison."""
        return self.detectable_loss()


class Pairs(NamedTuple):
    """The items in common of two or more scores, in an order that does not depend on the scores'."""

    ids: tuple[ItemId, ...]
    items: tuple[tuple[ItemOutcome, ...], ...]
    """Outcomes of each score."""
    values: tuple[Array, ...]
    """Main metric of each score's items."""
    subjects: Labels
    unpaired: int
    """Items that are not in all scores, summed over the scores."""


def main_metric(score: TaskScore) -> str:
    """Return the metric that comparisons use: the first that lm-eval lists, without its filter; "" if there is none."""
    return score.metrics[0].name.partition(",")[0] if score.metrics else ""


def outcomes(score: TaskScore) -> Outcomes:
    """Return the items that carry the main metric.

    lm-eval lists an item once for each answer filter; the main metric belongs to the first.
    """
    metric = main_metric(score)
    by_id: Outcomes = {}
    for item in score.items:
        if metric in item.metrics:
            by_id.setdefault(ItemId(item.task, item.doc_id, item.doc_hash, item.prompt_hash), item)
    return by_id


def item_values(score: TaskScore) -> dict[ItemId, float]:
    """Return the main metric of every item; empty if the items do not carry it."""
    metric = main_metric(score)
    return {key: item.metrics[metric] for key, item in outcomes(score).items()}


def _setting(baseline: TaskScore, variant: TaskScore) -> Words | None:
    """Return the first setting in which two scores differ."""
    settings: dict[Words, tuple[object, object]] = {
        msg("setting.task"): (baseline.task, variant.task),
        msg("setting.metric"): (main_metric(baseline), main_metric(variant)),
        msg("setting.fewshot"): (baseline.num_fewshot, variant.num_fewshot),
        msg("setting.chat_template"): (baseline.chat_template, variant.chat_template),
        msg("setting.thinking"): (baseline.thinking, variant.thinking),
        msg("setting.sampling"): (baseline.sampling, variant.sampling),
        msg("setting.context"): (baseline.yarn, variant.yarn),
        msg("setting.cap"): (baseline.max_gen_toks, variant.max_gen_toks),
    }
    for task in sorted(baseline.task_versions.keys() & variant.task_versions.keys()):
        settings[msg("setting.version", task=task)] = (baseline.task_versions[task], variant.task_versions[task])
    for setting, (first, second) in settings.items():
        if first != second:
            return msg("obstacle.different", setting=setting, first=str(first), second=str(second))
    return None


def _obstacle(baseline: TaskScore, variant: TaskScore, before: Outcomes, after: Outcomes) -> Words | None:
    if not baseline.valid:
        return msg("obstacle.baseline", status=STATUS[baseline.status])
    if not variant.valid:
        return msg("obstacle.variant", status=STATUS[variant.status])
    if setting := _setting(baseline, variant):
        return setting
    if not before.keys() & after.keys():
        return msg("obstacle.no_item")
    metric = main_metric(baseline)
    if any(not 0 <= item.metrics[metric] <= 1 for items in (before, after) for item in items.values()):
        return msg("obstacle.not_a_share", metric=metric)
    return None


def obstacle(baseline: TaskScore, variant: TaskScore) -> Words | None:
    """Return why two scores cannot be compared, as one plain clause; None if they can."""
    return _obstacle(baseline, variant, outcomes(baseline), outcomes(variant))


def pair(*scores: TaskScore) -> Pairs | None:
    """Return the items that all scores have; None if a score cannot be compared with the first (:func:`obstacle`)."""
    by_score = [outcomes(score) for score in scores]
    if any(_obstacle(scores[0], score, by_score[0], own) for score, own in zip(scores[1:], by_score[1:], strict=True)):
        return None
    ids = tuple(sorted(set.intersection(*map(set, by_score))))
    if not ids:
        return None
    metric = main_metric(scores[0])
    items = tuple(tuple(own[key] for key in ids) for own in by_score)
    values = tuple(np.array([item.metrics[metric] for item in column]) for column in items)
    _, subjects = np.unique([key.task for key in ids], return_inverse=True)
    return Pairs(ids, items, values, subjects, unpaired=sum(map(len, by_score)) - len(scores) * len(ids))


def _standard_errors(values: Array, subjects: Labels) -> tuple[float | None, float | None]:
    """Return the standard errors of the mean with items, and with subjects, drawn at random."""
    paired = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    sums, sizes = by_subject(values, subjects)
    if len(sizes) == 1:
        return paired, None
    _, clustered, _ = mean_of_units(sums, sizes)
    return paired, float(clustered)


def _recovery(before: Array, after: Array, subjects: Labels) -> Estimate | None:
    """Return the ratio of the means; its interval by linearization (delta method)."""
    mean = float(before.mean())
    if mean == 0:
        return None
    ratio = float(after.mean()) / mean
    low, high = spread((after - ratio * before) / mean, subjects, pair=1 / mean).interval()
    return Estimate(value=ratio, low=max(0.0, ratio + low), high=ratio + high)


def choice_kl(pairs: Pairs) -> Estimate | None:
    """Return the mean KL(first || second) over the choices' probabilities, normalized for each item; nats.

    It measures how far the answers moved even if none flipped: fidelity, not accuracy. None with fewer than two items
    that have finite log-probabilities of the same number of choices in both.
    """
    logprobs = [(before.logprobs, after.logprobs) for before, after in zip(*pairs.items, strict=True)]
    usable = [
        index
        for index, (before, after) in enumerate(logprobs)
        if len(before) == len(after) > 0 and np.isfinite([before, after]).all()
    ]
    if len(usable) < 2:
        return None
    # Choices that an item does not have get probability 0.
    padded = np.full((2, len(usable), max(len(logprobs[index][0]) for index in usable)), -np.inf)
    for row, index in enumerate(usable):
        padded[:, row, : len(logprobs[index][0])] = logprobs[index]
    divergence = rel_entr(*softmax(padded, axis=2)).sum(axis=1).clip(min=0)
    _, subjects = np.unique(pairs.subjects[usable], return_inverse=True)
    low, high = spread(divergence, subjects, pair=0).interval()
    return Estimate(value=float(divergence.mean()), low=max(0.0, low), high=high)


def _noise(baseline: TaskScore, repeat: TaskScore | None, variant: TaskScore) -> Noise | None:
    pairs = pair(baseline, repeat, variant) if repeat else None
    if pairs is None:
        return None
    first, again, other = pairs.values
    by_chance, by_variant = (again != first).astype(float), (other != first).astype(float)
    excess = difference(by_chance, by_variant, pairs.subjects)
    return Noise(n=excess.n, flip_rate=excess.baseline_mean, excess=excess.delta)


def compare(baseline: TaskScore, variant: TaskScore, repeat: TaskScore | None = None) -> Comparison | None:
    """Compare ``variant`` with ``baseline``; return None if they cannot be compared (:func:`obstacle`).

    Args:
        baseline: the score to compare with.
        variant: a score of the same task.
        repeat: the baseline's second run (``repeat == 1``), which shows what flips by chance alone. ``compare(baseline,
            repeat)`` is the noise floor itself.
    """
    pairs = pair(baseline, variant)
    if pairs is None:
        return None
    before, after = pairs.values
    values = after - before
    paired_se, clustered_se = _standard_errors(values, pairs.subjects)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(bootstrap_means(values, pairs.subjects), (tail, 1 - tail))
    change = difference(before, after, pairs.subjects)
    return Comparison(
        **dict(change),
        task=baseline.task,
        baseline=baseline.variant,
        variant=variant.variant,
        baseline_engine=baseline.engine,
        variant_engine=variant.engine,
        metric=main_metric(baseline),
        unpaired=pairs.unpaired,
        paired_se=paired_se,
        clustered_se=clustered_se,
        bootstrap=Estimate(value=change.delta.value, low=float(low), high=float(high)),
        recovery=_recovery(before, after, pairs.subjects),
        choice_kl_nats=choice_kl(pairs),
        noise=_noise(baseline, repeat, variant),
    )
