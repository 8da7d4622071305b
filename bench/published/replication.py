"""Compare measurements with published figures: reproduced, different, or not comparable. Pure functions.

A published speed is one figure without a spread, so the variation between the publisher's own runs is unknown. A
measured speed counts as reproduced if the interval of measured / published overlaps ``TOLERANCE``. On other hardware
only the shares of the physical limit are comparable.
"""

import math
from collections.abc import Sequence
from typing import Literal

from bench.analysis.speedup import MIN_TRIALS
from bench.limits.measured import limit_of as measured_limit
from bench.machine.peaks import lookup
from bench.messages.message import Worded, Words, clauses, msg
from bench.published.figures import PublishedCell, PublishedScore, cells, scores, share_of, sources
from bench.records.record import RunRecord, SpeedCell, TaskScore
from bench.records.words import STATUS
from bench.speed.figures import measured_cell, per_trial
from bench.speed.metrics import Interval, bootstrap_median, e2e_s
from quantize.key import Frozen

TOLERANCE = 0.05
"""Largest relative difference of a reproduced speed. Chosen; the ratio is printed too."""
Z = 1.959963984540054
"""Standard errors on either side of a 95 % interval, of a normal distribution."""

Kind = Literal["reproduced", "faster", "slower", "higher", "lower", "not comparable", "not enough data"]


class CellReplication(Frozen):
    """A measured cell, compared with a published one."""

    published: PublishedCell
    kind: Kind
    reason: Worded
    speed_tokens_per_s: Interval | None
    """Measured, by the page's definition of speed; None for a cell that is not ``ok``."""
    ratio: Interval | None
    """Measured / published; None if they cannot be compared."""
    of_roof: float | None
    """Least time of the whole request / measured time, 0 to 1."""
    published_of_roof: float | None
    """Least time / published time, 0 to 1."""


class ScoreReplication(Frozen):
    """A measured score, compared with a published one."""

    published: PublishedScore
    kind: Kind
    reason: Worded
    score: float | None
    """Measured, 0 to 1."""
    difference: tuple[float, float, float] | None
    """Measured minus published with its 95 % interval: (low, value, high), of 1."""


def _quant(record: RunRecord) -> str:
    """Return the name of a run's quantization; FP8 with a scale for each block is ``fp8-block``, whatever its name."""
    name = record.variant.quant.partition("[")[0]
    stored = (record.checkpoint.quantization_config if record.checkpoint else None) or {}
    return "fp8-block" if name == "fp8" and stored.get("weight_block_size") else name


def _model(record: RunRecord) -> str:
    return record.variant.model.partition("[")[0]


def _matches(record: RunRecord, cell: SpeedCell) -> list[PublishedCell]:
    return [
        published
        for published in cells()
        if (published.model, published.quant, published.engine) == (_model(record), _quant(record), record.engine)
        and (published.input_len, published.output_len) == (cell.input_len, cell.output_len)
        and cell.concurrency == 1
        and cell.request_rate_per_s is None
    ]


def _other_hardware(record: RunRecord, published: PublishedCell) -> Words | None:
    """Return how the hardware differs; None if it is the same."""
    page = sources()[published.source]
    theirs = lookup(page.device) if page.device else None
    ours = record.device
    if ours is None or theirs is None:
        return msg("replication.unknown_device", hardware=str(page.hardware))
    if ours.name != theirs.name:
        return msg("replication.other_device", hardware=str(page.hardware), device=ours.name)
    devices = record.server.devices if record.server else 1
    if devices == published.devices:
        return None
    return msg("replication.other_number", published=str(published.devices), measured=str(devices))


def _differences(record: RunRecord, published: PublishedCell) -> list[Words]:
    """Return other possible reasons for a difference: a version, a setting, a doubt about the published figure."""
    page = sources()[published.source]
    theirs = page.versions.get(published.engine)
    ours = record.server.version if record.server else None
    reasons: list[Words] = []
    if theirs and ours and theirs != ours:
        reasons.append(msg("replication.other_version", engine=published.engine, measured=ours, published=theirs))
    if published.setting:
        reasons.append(msg("replication.setting", setting=page.settings[published.setting]))
    if published.doubt:
        reasons.append(msg("replication.doubtful", doubt=published.doubt))
    return reasons


def replicate_cell(record: RunRecord, cell: SpeedCell, published: PublishedCell) -> CellReplication:
    """Compare a measured cell with a published one of the same shape."""
    counted = published.duration_s * published.speed_tokens_per_s
    figures = measured_cell(cell)
    speed = bootstrap_median(counted / time for time in per_trial(figures, e2e_s)) if figures else None
    roof = measured_limit(record, figures) if figures else None
    least = roof.roof_ttft_s + (cell.output_len - 1) * roof.roof_tpot_s if roof else None
    of_roof = least / (counted / speed.median) if least and speed else None
    theirs = share_of(published)

    def replication(kind: Kind, reason: Words, ratio: Interval | None = None) -> CellReplication:
        return CellReplication(
            published=published,
            kind=kind,
            reason=reason,
            speed_tokens_per_s=speed,
            ratio=ratio,
            of_roof=of_roof,
            published_of_roof=theirs.of_roof if theirs else None,
        )

    if figures is None:
        return replication("not comparable", msg("need.cell_is", status=STATUS[cell.status]))
    if speed is None:
        return replication("not enough data", msg("replication.no_trial"))
    if other := _other_hardware(record, published):
        return replication("not comparable", msg("replication.shares_only", why=other))
    by = published.speed_tokens_per_s
    ratio = Interval(median=speed.median / by, low=speed.low / by, high=speed.high / by, n=speed.n)
    why = [msg("replication.ratio", ratio=f"{ratio.median:.3f}"), *_differences(record, published)]
    if speed.n < MIN_TRIALS:
        why.append(msg("replication.few_trials", trials=str(speed.n), least=str(MIN_TRIALS)))
        return replication("not enough data", clauses(why), ratio)
    if ratio.low > 1 + TOLERANCE:
        return replication("faster", clauses(why), ratio)
    return replication("slower" if ratio.high < 1 - TOLERANCE else "reproduced", clauses(why), ratio)


def replications(records: Sequence[RunRecord]) -> tuple[tuple[RunRecord, CellReplication], ...]:
    """Return every cell that has a published counterpart, compared with it."""
    return tuple(
        (record, replicate_cell(record, cell, published))
        for record in records
        for cell in record.cells
        for published in _matches(record, cell)
    )


def _asked_otherwise(score: TaskScore, published: PublishedScore) -> Words | None:
    """Return how the questions differ from the page's, as far as it describes them; None if they do not."""
    page = sources()[published.source]
    shots = page.fewshot.get(published.task)
    if score.n_items != published.n_items:
        return msg("replication.items", asked=f"{score.n_items:,}", published=f"{published.n_items or 0:,}")
    if None not in (page.thinking, score.thinking) and page.thinking != score.thinking:
        return msg("replication.thinking") if score.thinking else msg("replication.not_thinking")
    if None not in (shots, score.num_fewshot) and shots != score.num_fewshot:
        return msg("replication.fewshot", published=str(shots), measured=str(score.num_fewshot))
    return None


def replicate_score(score: TaskScore, published: PublishedScore) -> ScoreReplication:
    """Compare a measured score with a published one.

    Their errors are added as if the items were different, so the interval is wider than necessary. The pages do not
    print their prompts in full, which may explain a difference.
    """
    shown = score.metrics if score.valid else ()
    metric = next((candidate for candidate in shown if candidate.name.partition(",")[0] == published.metric), None)

    def replication(
        kind: Kind, reason: Words, difference: tuple[float, float, float] | None = None
    ) -> ScoreReplication:
        value = metric.value if metric else None
        return ScoreReplication(published=published, kind=kind, reason=reason, score=value, difference=difference)

    if not shown:
        return replication("not comparable", msg("need.score_is", status=STATUS[score.status]))
    if metric is None or metric.stderr is None or published.n_items is None:
        return replication("not comparable", msg("replication.unknown_metric", metric=published.metric))
    if reason := _asked_otherwise(score, published):
        return replication("not comparable", reason)
    value = metric.value - published.score
    half = Z * math.hypot(metric.stderr, math.sqrt(published.score * (1 - published.score) / published.n_items))
    why = msg("replication.difference", difference=f"{100 * value:+.1f}", half=f"{100 * half:.1f}")
    kind: Kind = "higher" if value > half else "lower" if value < -half else "reproduced"
    return replication(kind, why, (value - half, value, value + half))


def score_replications(records: Sequence[RunRecord]) -> tuple[tuple[RunRecord, ScoreReplication], ...]:
    """Return every score that has a published counterpart, compared with it."""
    return tuple(
        (record, replicate_score(score, published))
        for record in records
        for score in record.scores
        if not score.repeat
        for published in scores()
        if (published.model, published.quant, published.task) == (_model(record), _quant(record), score.task)
    )
