"""Common claims, checked against the results of a report. Pure functions."""

from collections.abc import Iterator, Sequence

from bench.analysis.baseline import cell_under_same_load
from bench.analysis.speedup import speedup
from bench.messages.message import Words, msg
from bench.published.claims import Finding, answer_of, published_findings
from bench.published.figures import Claim, claims
from bench.records.record import RunRecord, SpeedCell
from bench.report.shapes import load_words
from bench.report.verdicts import judged
from bench.report.view import Run, runs
from bench.speed.figures import measured_cell
from bench.speed.metrics import e2e_s
from bench.speed.shapes import shape_of


def _place(engine: str, cell: SpeedCell) -> Words:
    """Return the engine, and the load unless it is one request at a time."""
    if cell.request_rate_per_s is None and cell.concurrency == 1:
        return engine
    return msg("claims.place", engine=engine, load=load_words(shape_of(cell)))


def _measured_speed(claim: Claim, run: Run) -> Iterator[Finding]:
    baseline = run.speed_baseline()
    for variant in run.measured() if baseline else ():
        cell = variant.cell
        counterpart = cell_under_same_load(baseline.cells, cell) if baseline else None
        before = measured_cell(counterpart) if counterpart else None
        gain = speedup(before, variant, e2e_s) if before else None
        if gain is None or gain.verdict == "not enough data":
            continue
        low, value, high = (edge - 1 for edge in (gain.ratio.low, gain.ratio.median, gain.ratio.high))
        yield Finding(
            claim=claim,
            measured=True,
            source=run.record.run_id,
            model=run.record.variant.model,
            label=run.record.variant.quant,
            where=_place(run.record.engine, cell),
            input_len=cell.input_len,
            value=value,
            points=None,
            low=low,
            high=high,
            answer=answer_of(claim, value, low, high),
        )


def _measured_accuracy(claim: Claim, records: Sequence[RunRecord]) -> Iterator[Finding]:
    for entry in judged(records):
        quant = entry.run.record.variant.quant.partition("[")[0]
        comparison = entry.verdict.comparison if entry.verdict else None
        if quant not in claim.quants or comparison is None or comparison.recovery is None:
            continue
        low, value, high = 1 - comparison.recovery.high, 1 - comparison.recovery.value, 1 - comparison.recovery.low
        yield Finding(
            claim=claim,
            measured=True,
            source=entry.run.record.run_id,
            model=entry.run.record.variant.model,
            label=entry.run.record.variant.quant,
            where=entry.score.task,
            input_len=None,
            value=value,
            points=-comparison.delta.value,
            low=low,
            high=high,
            answer=answer_of(claim, value, low, high),
        )


def measured_findings(claim: Claim, records: Sequence[RunRecord]) -> tuple[Finding, ...]:
    """Return what the measurements of a report say about a claim."""
    if claim.figure == "accuracy":
        return tuple(_measured_accuracy(claim, records))
    wanted = [run for run in runs(records) if run.record.variant.quant.partition("[")[0] in claim.quants]
    return tuple(finding for run in wanted for finding in _measured_speed(claim, run))


def findings(records: Sequence[RunRecord]) -> tuple[Finding, ...]:
    """Return the findings on every claim, measured ones before published ones."""
    return tuple(
        finding for claim in claims() for finding in (*measured_findings(claim, records), *published_findings(claim))
    )
