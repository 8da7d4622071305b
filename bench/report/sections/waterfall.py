"""Where the speed-up went: from the bits of a weight to what was measured, factor by factor."""

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
from bench.speed.metrics import e2e_s, summarize, tpot_s
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
class _Pair:
    """A variant's cell beside the baseline's of the same shape."""

    run: Run
    against: str
    """The baseline's quantization."""
    shape: Shape
    found: Waterfall
    decode: Speedup | None
    end_to_end: Speedup | None


def _shape(cell: SpeedCell) -> Shape:
    return shape_of(cell).model_copy(update={"objective": None})


def _fixed(record: RunRecord, cells: Sequence[SpeedCell], shape: Shape) -> float | None:
    """Return the fixed part of the baseline's decode steps under one load, from all of its input lengths."""
    points = []
    for cell in cells:
        limit, summary = limit_of(record, cell), summarize(cell)
        same_load = _shape(cell).model_copy(update={"input_len": shape.input_len}) == shape
        if same_load and limit and summary and summary.tpot_s:
            points.append((limit.decode.moved_bytes, summary.tpot_s))
    return fixed_seconds(points)


def _pairs(run: Run) -> Iterator[_Pair]:
    """Yield what can be explained of a run, shortest input and lightest load first."""
    base = run.speed_baseline()
    if base is None or not run.quantized:
        return
    for cell, summary in sorted(run.measured(), key=lambda pair: (pair[0].input_len, pair[0].concurrency)):
        other = cell_under_same_load(base.cells, cell)
        if other is None or cell.request_rate_per_s is not None:
            continue
        one_limit, two_limit, one_summary = limit_of(base.record, other), limit_of(run.record, cell), summarize(other)
        one = timed_cell(one_limit, one_summary) if one_limit and one_summary else None
        two = timed_cell(two_limit, summary) if two_limit else None
        if one is not None and two is not None:
            found = waterfall(one, two, _fixed(base.record, base.cells, _shape(cell)))
            against = other.variant.quant
            yield _Pair(run, against, _shape(cell), found, speedup(other, cell, tpot_s), speedup(other, cell, e2e_s))


def _why_not(run: Run) -> Message:
    """Return why nothing is drawn for a run."""
    base = run.speed_baseline()
    if base is None:
        return msg("waterfall.no_bf16")
    if any(cell.status == "emulated" for cell in (*run.record.cells, *base.cells)):
        return msg("waterfall.emulated")
    return msg("waterfall.no_cell")


def _measured_cell(value: float, found: Speedup | None) -> Cell:
    if found is None:
        return Cell(f"{value:.2f}", numeric=True)
    spread = () if found.ratio.n == 1 else (fmt.between(f"{found.ratio.low:.2f}", f"{found.ratio.high:.2f}"),)
    how = msg("exact.paired") if found.paired else msg("exact.unpaired")
    exact = msg("exact.ratio", ratio=repr(found.ratio.median), how=how, trials=str(found.ratio.n))
    return Cell(f"{value:.2f}", (*spread, SPEEDUP[found.verdict]), exact, numeric=True)


def _table(pairs: Sequence[_Pair]) -> Table:
    names = [name for name in NAMES if any(step.name == name for pair in pairs for step in pair.found.steps)]
    heads = [
        Head(msg("head.variant")),
        Head(msg("head.cell")),
        *(Head(STEPS[name], MEANING[name], numeric=True) for name in names[:-1]),
        Head(msg("waterfall.is_decode"), msg("waterfall.is_decode.help"), numeric=True),
        Head(STEPS[names[-1]], MEANING[names[-1]], numeric=True),
        Head(msg("waterfall.is_end_to_end"), msg("waterfall.is_end_to_end.help"), numeric=True),
    ]
    rows = []
    for pair in pairs:
        factors = {step.name: step.factor for step in pair.found.steps}
        cells = [Cell(f"× {factors[name]:.2f}", numeric=True) if name in factors else Cell() for name in names]
        decode = _measured_cell(pair.found.decode_speedup, pair.decode)
        end_to_end = _measured_cell(pair.found.end_to_end_speedup, pair.end_to_end)
        rows.append([pair.run.heading, Cell(shape_words(pair.shape)), *cells[:-1], decode, cells[-1], end_to_end])
    return Table(msg("waterfall.caption"), heads, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section on where speed-ups went; None if no quantized run knows its device."""
    everything = [run for run in runs(records) if run.quantized and run.record.device is not None and run.record.cells]
    if not everything:
        return None
    by_run = {run.label: list(_pairs(run)) for run in everything}
    drawn = []
    for index, run in enumerate(everything):
        for pair in by_run[run.label][:1]:
            caption = msg("waterfall.figure", label=run.label, against=pair.against, where=shape_words(pair.shape))
            factors = listed(
                msg("waterfall.factor", step=STEPS[step.name], factor=f"{step.factor:.2f}") for step in pair.found.steps
            )
            description = msg("waterfall.description", caption=caption, factors=factors)
            svg = waterfall_plot(pair.found, mark=run.mark, name=f"waterfall{index}", description=description)
            drawn.append(Figure(svg, caption, run.label, run.mark))
    blocks: list[Block] = []
    if drawn:
        pairs = [pair for found in by_run.values() for pair in found]
        used = {step.name for pair in pairs for step in pair.found.steps}
        blocks += [Text(msg("waterfall.lead")), Figures(drawn), _table(pairs)]
        blocks.append(Terms([Term(STEPS[name], (MEANING[name],)) for name in NAMES if name in used]))
    missing: list[Words] = [
        msg("waterfall.missing.run", label=run.label, why=_why_not(run)) for run in everything if not by_run[run.label]
    ]
    if missing:
        blocks += [Text(msg("waterfall.missing")), Bullets(missing)]
    return Section("waterfall", msg("waterfall.title"), blocks)
