"""Speed-up breakdown: from bits per weight to the measured speed-up, factor by factor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.analysis.baseline import cell_under_same_load
from bench.analysis.speedup import Speedup, speedup
from bench.analysis.waterfall import (
    BOTH,
    CACHE,
    KERNELS,
    NAMES,
    OVERHEAD,
    PREFILL,
    REST,
    WEIGHTS,
    TimedCell,
    Waterfall,
    fixed_seconds,
    timed_cell,
    waterfall,
)
from bench.limits.measured import limit_of
from bench.messages.message import Message, Words, listed, msg
from bench.records.record import RunRecord, SpeedCell
from bench.report.cells import SPEEDUP
from bench.report.document import Block, Bullets, Cell, Figure, Figures, Group, Head, Section, Table, Term, Terms, Text
from bench.report.plots.waterfall import STEPS, waterfall_plot
from bench.report.shapes import shape_words
from bench.report.view import Run, runs
from bench.speed.figures import MeasuredCell, measured_cell
from bench.speed.metrics import e2e_s, tpot_s
from bench.speed.shapes import Shape, shape_of

ORDER = 48

MEANING = {
    WEIGHTS: msg("waterfall.weights.meaning"),
    REST: msg("waterfall.rest.meaning"),
    CACHE: msg("waterfall.cache.meaning"),
    KERNELS: msg("waterfall.kernels.meaning"),
    OVERHEAD: msg("waterfall.overhead.meaning"),
    BOTH: msg("waterfall.both.meaning"),
    PREFILL: msg("waterfall.prefill.meaning"),
}


@dataclass(frozen=True)
class _Breakdown:
    """A variant's cell compared with the baseline's of the same shape."""

    run: Run
    against: str
    """The baseline's quantization."""
    shape: Shape
    waterfall: Waterfall
    decode: Speedup | None
    end_to_end: Speedup | None


def _shape(cell: SpeedCell) -> Shape:
    return shape_of(cell).model_copy(update={"objective": None})


def _fixed(record: RunRecord, cells: Sequence[SpeedCell], shape: Shape) -> float | None:
    """Return the fixed part of the baseline's decode steps under one load, from all of its input lengths."""
    points = []
    for cell in cells:
        measured = measured_cell(cell)
        limit = limit_of(record, measured) if measured else None
        same_load = _shape(cell).model_copy(update={"input_len": shape.input_len}) == shape
        if same_load and limit and measured and measured.summary.tpot_s:
            points.append((limit.decode.moved_bytes, measured.summary.tpot_s))
    return fixed_seconds(points)


def _timed(record: RunRecord, cell: MeasuredCell) -> TimedCell | None:
    limit = limit_of(record, cell)
    return timed_cell(limit, cell) if limit else None


def _breakdowns(run: Run) -> Iterator[_Breakdown]:
    """Yield the breakdowns of a run, shortest input and lightest load first."""
    base = run.speed_baseline()
    if base is None or not run.quantized:
        return
    for after in sorted(run.measured(), key=lambda measured: (measured.cell.input_len, measured.cell.concurrency)):
        cell = after.cell
        counterpart = cell_under_same_load(base.cells, cell)
        before = measured_cell(counterpart) if counterpart else None
        if before is None or cell.request_rate_per_s is not None:
            continue
        timed = _timed(base.record, before), _timed(run.record, after)
        if timed[0] is not None and timed[1] is not None:
            factors = waterfall(timed[0], timed[1], _fixed(base.record, base.cells, _shape(cell)))
            against = before.cell.variant.quant
            speedups = speedup(before, after, tpot_s), speedup(before, after, e2e_s)
            yield _Breakdown(run, against, _shape(cell), factors, *speedups)


def _why_not(run: Run) -> Message:
    """Return why a run has no breakdown."""
    base = run.speed_baseline()
    if base is None:
        return msg("waterfall.no_bf16")
    if any(cell.status == "emulated" for cell in (*run.record.cells, *base.cells)):
        return msg("waterfall.emulated")
    return msg("waterfall.no_cell")


def _measured_cell(value: float, gain: Speedup | None) -> Cell:
    if gain is None:
        return Cell(f"{value:.2f}", numeric=True)
    spread = () if gain.ratio.n == 1 else (fmt.between(f"{gain.ratio.low:.2f}", f"{gain.ratio.high:.2f}"),)
    how = msg("exact.paired") if gain.paired else msg("exact.unpaired")
    exact = msg("exact.ratio", ratio=repr(gain.ratio.median), how=how, trials=str(gain.ratio.n))
    return Cell(f"{value:.2f}", (*spread, SPEEDUP[gain.verdict]), exact, numeric=True)


def _table(breakdowns: Sequence[_Breakdown]) -> Table:
    names = [
        name
        for name in NAMES
        if any(step.name == name for breakdown in breakdowns for step in breakdown.waterfall.steps)
    ]
    heads = [
        Head(msg("head.variant")),
        Head(msg("head.cell")),
        *(Head(STEPS[name], MEANING[name], numeric=True) for name in names[:-1]),
        Head(msg("waterfall.is_decode"), msg("waterfall.is_decode.help"), numeric=True),
        Head(STEPS[names[-1]], MEANING[names[-1]], numeric=True),
        Head(msg("waterfall.is_end_to_end"), msg("waterfall.is_end_to_end.help"), numeric=True),
    ]
    rows = []
    for breakdown in breakdowns:
        factors = {step.name: step.factor for step in breakdown.waterfall.steps}
        cells = [Cell(f"× {factors[name]:.2f}", numeric=True) if name in factors else Cell() for name in names]
        decode = _measured_cell(breakdown.waterfall.decode_speedup, breakdown.decode)
        end_to_end = _measured_cell(breakdown.waterfall.end_to_end_speedup, breakdown.end_to_end)
        rows.append(
            [breakdown.run.heading, Cell(shape_words(breakdown.shape)), *cells[:-1], decode, cells[-1], end_to_end]
        )
    return Table(msg("waterfall.caption"), heads, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the speed-up breakdown; None if the device of no quantized run is known."""
    everything = [run for run in runs(records) if run.quantized and run.record.device is not None and run.record.cells]
    if not everything:
        return None
    by_run = {run.label: list(_breakdowns(run)) for run in everything}
    figures = []
    for index, run in enumerate(everything):
        for breakdown in by_run[run.label][:1]:
            caption = msg(
                "waterfall.figure", label=run.label, against=breakdown.against, where=shape_words(breakdown.shape)
            )
            factors = listed(
                msg("waterfall.factor", step=STEPS[step.name], factor=f"{step.factor:.2f}")
                for step in breakdown.waterfall.steps
            )
            description = msg("waterfall.description", caption=caption, factors=factors)
            svg = waterfall_plot(breakdown.waterfall, mark=run.mark, name=f"waterfall{index}", description=description)
            figures.append(Figure(svg, caption, run.label, run.mark))
    blocks: list[Block] = []
    if figures:
        breakdowns = [breakdown for of_run in by_run.values() for breakdown in of_run]
        used = {step.name for breakdown in breakdowns for step in breakdown.waterfall.steps}
        blocks += [Text(msg("waterfall.lead")), Figures(figures), _table(breakdowns)]
        blocks.append(Terms([Term(STEPS[name], (MEANING[name],)) for name in NAMES if name in used]))
    missing: list[Words] = [
        msg("waterfall.missing.run", label=run.label, why=_why_not(run)) for run in everything if not by_run[run.label]
    ]
    if missing:
        blocks += [Text(msg("waterfall.missing")), Bullets(missing)]
    return Section("waterfall", msg("waterfall.title"), blocks)
