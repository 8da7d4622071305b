"""Where the speed-up went: from the bits of a weight to what was measured, factor by factor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.analysis.baseline import cell_under_same_load
from bench.analysis.speedup import Speedup, speedup
from bench.analysis.waterfall import MEANING, Waterfall, fixed_seconds, timed_cell, waterfall
from bench.limits.measured import limit_of
from bench.records.record import RunRecord, SpeedCell
from bench.report.document import Block, Bullets, Cell, Figure, Figures, Group, Head, Section, Table, Term, Terms, Text
from bench.report.plots.waterfall import waterfall_plot
from bench.report.view import Run, runs
from bench.speed.metrics import e2e_s, summarize, tpot_s
from bench.speed.shapes import Shape, shape_of

ORDER = 48


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


def _why_not(run: Run) -> str:
    """Return why nothing is drawn for a run."""
    base = run.speed_baseline()
    if base is None:
        return "there is no BF16 run of the same model and engine on the same device to compare with"
    if any(cell.status == "emulated" for cell in (*run.record.cells, *base.cells)):
        return "its speed is emulated: computed with weights expanded to 16 bits, so there is no speed-up to explain"
    return "it has no ok cell in common with its baseline whose physical limit is known"


def _measured_cell(value: float, found: Speedup | None) -> Cell:
    if found is None:
        return Cell(f"{value:.2f}", numeric=True)
    spread = () if found.ratio.n == 1 else (fmt.between(f"{found.ratio.low:.2f}", f"{found.ratio.high:.2f}"),)
    how = "trial by trial" if found.paired else "medians of separate runs"
    exact = f"median ratio {found.ratio.median!r}, {how}, n = {found.ratio.n}"
    return Cell(f"{value:.2f}", (*spread, found.verdict), exact, numeric=True)


def _words(shape: Shape) -> str:
    return f"{fmt.plural(shape.input_len, 'token')} in, {fmt.count(shape.output_len)} out, {shape.load}"


def _table(pairs: Sequence[_Pair]) -> Table:
    names = [name for name in MEANING if any(step.name == name for pair in pairs for step in pair.found.steps)]
    heads = [
        Head("Variant"),
        Head("Cell"),
        *(Head(name, MEANING[name], numeric=True) for name in names[:-1]),
        Head("= decode", "the baseline's TPOT / the variant's; below it interval and verdict", numeric=True),
        Head(names[-1], MEANING[names[-1]], numeric=True),
        Head(
            "= end to end",
            "the baseline's whole time / the variant's; below it interval and verdict",
            numeric=True,
        ),
    ]
    rows = []
    for pair in pairs:
        factors = {step.name: step.factor for step in pair.found.steps}
        cells = [Cell(f"× {factors[name]:.2f}", numeric=True) if name in factors else Cell() for name in names]
        decode = _measured_cell(pair.found.decode_speedup, pair.decode)
        end_to_end = _measured_cell(pair.found.end_to_end_speedup, pair.end_to_end)
        rows.append([pair.run.heading, Cell(_words(pair.shape)), *cells[:-1], decode, cells[-1], end_to_end])
    return Table("Factors whose product is the measured speed-up against the baseline", heads, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section on where speed-ups went; None if no quantized run knows its device."""
    everything = [run for run in runs(records) if run.quantized and run.record.device is not None and run.record.cells]
    if not everything:
        return None
    by_run = {run.label: list(_pairs(run)) for run in everything}
    drawn = []
    for index, run in enumerate(everything):
        for pair in by_run[run.label][:1]:
            caption = f"{run.label} against {pair.against}, {_words(pair.shape)}: each bar multiplies what is above it."
            told = ", ".join(f"{step.name} {step.factor:.2f}" for step in pair.found.steps)
            svg = waterfall_plot(pair.found, mark=run.mark, name=f"waterfall{index}", description=f"{caption} {told}")
            drawn.append(Figure(svg, caption, run.label, run.mark))
    blocks: list[Block] = []
    if drawn:
        pairs = [pair for found in by_run.values() for pair in found]
        used = {step.name for pair in pairs for step in pair.found.steps}
        text = (
            "Were decoding limited by memory alone, were nothing read but the quantized layers, and were the kernels "
        )
        text += "equally good, decoding would be as much faster as its weights have fewer bits. Each factor drops one "
        text += "of these ifs; filled bars were measured."
        blocks += [Text(text), Figures(drawn), _table(pairs)]
        blocks.append(Terms([Term(name, (meaning,)) for name, meaning in MEANING.items() if name in used]))
    missing = [f"{run.label}: {_why_not(run)}" for run in everything if not by_run[run.label]]
    if missing:
        blocks += [Text("Nothing is drawn for:"), Bullets(missing)]
    return Section("waterfall", "Where the speed-up went", blocks)
