"""Test commonly quoted claims against published figures. Pure functions.

A claim has a range. A figure with an interval decides only if the whole interval is inside or outside of that range; a
published speed has no interval and always decides. Losses of accuracy are relative, as in the claims: 1 - the ratio of
the score to BF16's. :mod:`bench.report.claims` tests the claims against a report's own figures.
"""

import math
from collections.abc import Iterator
from typing import Literal

from bench.messages.message import Worded
from bench.published.figures import Claim, PublishedCell, PublishedScore, cells, scores
from quantize.key import Frozen

Answer = Literal["holds", "does not hold", "undecided"]
Z = 1.959963984540054
"""Standard errors on either side of a 95 % interval, of a normal distribution."""


class Finding(Frozen):
    """The answer of one figure to a claim."""

    claim: Claim
    measured: bool
    """Whether the figure was measured here; otherwise it was published."""
    source: str
    model: str
    label: str
    where: Worded
    """The task, or the engine and its load."""
    input_len: int | None
    value: float
    """Relative loss, or speed-up minus 1, as a share."""
    points: float | None
    """Loss as a difference of scores, of 1; None for speeds."""
    low: float | None
    """Lower end of the interval of ``value``, as a share; None without an interval."""
    high: float | None
    """Upper end, as a share; None without an interval."""
    answer: Answer


def answer_of(claim: Claim, value: float, low: float | None = None, high: float | None = None) -> Answer:
    """Return whether a figure, or its whole interval if it has one, is in the claim's range."""
    least = claim.above if claim.above is not None else -math.inf
    most = claim.below if claim.below is not None else math.inf
    low, high = (value if low is None else low), (value if high is None else high)
    if least <= low and high <= most:
        return "holds"
    return "does not hold" if high < least or low > most else "undecided"


def _loss_interval(score: PublishedScore) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a relative loss; it is too wide, for it assumes that the items are different ones."""
    before, n = score.bf16_score, score.n_items
    if not before or not n:
        return None, None
    after = score.score
    relative = math.sqrt((1 - after) / (after * n) + (1 - before) / (before * n))
    ratio = after / before
    return 1 - ratio * math.exp(Z * relative), 1 - ratio * math.exp(-Z * relative)


def _published_accuracy(claim: Claim) -> Iterator[Finding]:
    for score in scores():
        if score.quant not in claim.quants or not score.bf16_score:
            continue
        value = 1 - score.score / score.bf16_score
        low, high = _loss_interval(score)
        yield Finding(
            claim=claim,
            measured=False,
            source=score.source,
            model=score.model,
            label=score.label,
            where=score.task,
            input_len=None,
            value=value,
            points=score.bf16_score - score.score,
            low=low,
            high=high,
            answer=answer_of(claim, value, low, high),
        )


def _bf16_of(cell: PublishedCell) -> PublishedCell | None:
    """Return the BF16 cell of the same source, setting and number of devices."""

    def place(other: PublishedCell) -> tuple[str, str, str, int, int, str]:
        return other.source, other.model, other.engine, other.input_len, other.devices, other.setting

    return next((other for other in cells() if other.quant == "bf16" and place(other) == place(cell)), None)


def _published_speed(claim: Claim) -> Iterator[Finding]:
    for cell in cells():
        before = _bf16_of(cell) if cell.quant in claim.quants and not cell.doubt else None
        if before is None:
            continue
        value = before.duration_s / cell.duration_s - 1
        yield Finding(
            claim=claim,
            measured=False,
            source=cell.source,
            model=cell.model,
            label=cell.label,
            where=cell.engine,
            input_len=cell.input_len,
            value=value,
            points=None,
            low=None,
            high=None,
            answer=answer_of(claim, value),
        )


def published_findings(claim: Claim) -> tuple[Finding, ...]:
    """Return the answers of all published figures to a claim."""
    return tuple(_published_accuracy(claim) if claim.figure == "accuracy" else _published_speed(claim))
