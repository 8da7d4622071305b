"""Speed-up over BF16 by input length: a coloured table for each load, with the reason where there is no figure."""

from collections.abc import Callable, Sequence

from bench import format as fmt
from bench.analysis.baseline import cell_under_same_load
from bench.analysis.speedup import speedup
from bench.messages.message import Words, msg
from bench.records.record import RequestTrace, RunRecord, SpeedCell
from bench.records.words import STATUS
from bench.report.cells import SPEEDUP
from bench.report.document import Block, Cell, Group, Head, Section, Table, Text
from bench.report.view import Run, runs
from bench.speed.figures import measured_cell
from bench.speed.metrics import tpot_s, ttft_s

ORDER = 18

EDGES = (0.8, 0.95, 0.99, 1.01, 1.05, 1.4)
"""Boundaries between the shades."""
FIGURES = ((msg("heat.decoding"), tpot_s), (msg("heat.prefill"), ttft_s))


def shade(ratio: float) -> str:
    """Return the shade of a ratio."""
    return f"u{sum(ratio >= edge for edge in EDGES)}"


def _void(text: Words) -> Cell:
    return Cell(text, numeric=True, shade="void")


def _cell(cell: SpeedCell | None, before: SpeedCell | None, figure: Callable[[RequestTrace], float | None]) -> Cell:
    if cell is None:
        return _void(msg("heat.not_measured"))
    variant, baseline = measured_cell(cell), measured_cell(before) if before else None
    if variant is None:
        return _void(STATUS[cell.status])
    if baseline is None:
        return _void(msg("heat.bf16_is", status=STATUS[before.status]) if before else msg("heat.no_bf16"))
    gain = speedup(baseline, variant, figure)
    if gain is None:
        return _void(msg("heat.no_figure"))
    middle, verdict = gain.ratio.median, SPEEDUP[gain.verdict]
    if gain.verdict == "not enough data":
        return Cell(f"{middle:.2f}", (verdict,), repr(middle), numeric=True, shade="void")
    notes: list[Words] = [fmt.between(f"{gain.ratio.low:.2f}", f"{gain.ratio.high:.2f}")]
    if gain.verdict == "no difference seen":
        notes.append(verdict)
    return Cell(f"{middle:.2f}", tuple(notes), repr(middle), numeric=True, shade=shade(middle))


def _tables(everything: Sequence[Run], load: tuple[int, int], several: bool) -> list[Table]:
    output_len, concurrency = load
    closed = {
        run.label: {
            cell.input_len: cell
            for cell in run.record.cells
            if cell.request_rate_per_s is None and (cell.output_len, cell.concurrency) == load
        }
        for run in everything
    }
    lengths = sorted({length for cells in closed.values() for length in cells})
    tables = []
    for words, figure in FIGURES:
        if output_len < 2 and figure is tpot_s:
            continue
        rows = []
        for run in everything:
            if not run.quantized or not closed[run.label]:
                continue
            baseline = run.speed_baseline()
            row = [run.heading]
            for length in lengths:
                cell = closed[run.label].get(length)
                before = cell_under_same_load(baseline.cells, cell) if baseline and cell else None
                row.append(_cell(cell, before, figure))
            rows.append(row)
        heads = [
            Head(msg("head.variant")),
            *(
                Head(msg("shape.in", length=fmt.count(length)), msg("heat.length.help"), numeric=True)
                for length in lengths
            ),
        ]
        caption = msg("heat.caption", figure=words)
        if several:
            caption = msg("heat.caption.load", figure=words, n=output_len, concurrency=str(concurrency))
        if rows:
            tables.append(Table(caption, heads, [Group(rows)]))
    return tables


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section; None if no quantized run with a BF16 baseline has a closed loop."""
    everything = runs(records)
    loads = sorted(
        {
            (cell.output_len, cell.concurrency)
            for run in everything
            for cell in run.record.cells
            if cell.request_rate_per_s is None and run.quantized and run.baseline
        }
    )
    blocks: list[Block] = [table for load in loads for table in _tables(everything, load, several=len(loads) > 1)]
    if not blocks:
        return None
    return Section("speedup", msg("heat.title"), [*blocks, Text(msg("heat.how"), "small")])
