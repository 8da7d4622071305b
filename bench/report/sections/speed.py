"""Speed by input length: two charts for each closed loop, and a table of all cells. Section load draws open loops."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench import format as fmt
from bench.limits.measured import Share, against, limit_of
from bench.limits.roofline import Limit
from bench.messages.message import Message, Words, clauses, linked, msg, sentences
from bench.records.record import RunRecord, SpeedCell
from bench.report.cells import BOUND
from bench.report.document import (
    Block,
    Bullets,
    Cell,
    Figure,
    Figures,
    Group,
    Head,
    Mark,
    Section,
    Table,
    Text,
    interval,
    number,
)
from bench.report.plots.base import Point, Series, by_length
from bench.report.recorded import recorded
from bench.report.shapes import load_words
from bench.report.units import BYTES
from bench.report.view import SHOWN, Run, cell_anchor, reasons_of, runs
from bench.speed.figures import EmulatedCell, MeasuredCell, recorded_cell
from bench.speed.metrics import CellSummary, Interval
from bench.speed.shapes import Shape, shape_of
from bench.speed.validity import CLIENT_BOUND

ORDER = 20

Load = tuple[str, int, int, float, int]
"""Model, output length, concurrency, request rate (0 for a closed loop) and requests of a trial: what is compared."""
HEADS = (
    Head(msg("head.variant")),
    Head(msg("head.status")),
    Head(msg("speed.trials"), msg("speed.trials.help"), numeric=True),
    Head(msg("head.ttft"), msg("speed.ttft.help"), numeric=True),
    Head(msg("head.tpot"), msg("speed.tpot.help"), numeric=True),
    Head(msg("speed.decode"), "1 / TPOT", numeric=True),
    Head(msg("speed.prefill"), msg("speed.prefill.help"), numeric=True),
    Head(msg("head.end_to_end"), msg("speed.end_to_end.help"), numeric=True),
    Head(msg("head.output_rate"), msg("speed.output_rate.help"), numeric=True),
    Head(msg("speed.qwen"), msg("speed.qwen.help"), numeric=True),
    Head(msg("speed.memory"), msg("speed.memory.help"), numeric=True),
)
LIMIT_HEADS = (
    Head(msg("speed.roof"), msg("speed.roof.help"), numeric=True),
    Head(msg("speed.of_roof"), msg("speed.of_roof.help"), numeric=True),
    Head(msg("head.bound_by"), msg("speed.bound_by.help")),
)


LIMIT_COLUMN = 6
"""Index at which the columns of the limit are inserted: after the decode speed."""
MARK = CLIENT_BOUND.rstrip(": ")


def _load(cell: SpeedCell, run: Run) -> Load:
    return run.record.variant.model, cell.output_len, cell.concurrency, cell.request_rate_per_s or 0.0, cell.n_requests


def _words(shape: Shape) -> Message:
    """Return a shape's load, e.g. ``concurrency 4, 16 requests``."""
    load = load_words(shape)
    if shape.request_rate_per_s is None and shape.n_requests == shape.concurrency:
        return load
    return msg("load.requests", load=load, n=shape.n_requests)


def _points(run: Run, load: Load, figure_of: Callable[[CellSummary], Interval | None]) -> tuple[Point, ...]:
    points = []
    for measured in run.measured():
        value = figure_of(measured.summary)
        if _load(measured.cell, run) == load and value is not None:
            points.append(Point(measured.cell.input_len, value.median, value.low, value.high))
    return tuple(points)


def _figures(everything: Sequence[Run], load: Load, words: Words, name: str) -> Figures | None:
    """Return TTFT and decode speed over input length for one load; None if nothing of it was measured."""
    ttft = [Series(r.label, r.mark, _points(r, load, lambda s: s.ttft_s)) for r in everything]
    decode = [Series(r.label, r.mark, _points(r, load, lambda s: s.decode_tokens_per_s)) for r in everything]
    items = []
    if any(line.points for line in ttft):
        caption = msg("speed.figure.ttft", where=words)
        lines = [line for line in ttft if line.points]
        ylabel = msg("speed.ttft.help")
        svg = by_length(lines, name=f"{name}-ttft", description=caption, ylabel=ylabel, show=fmt.seconds, log=True)
        items.append(Figure(svg, caption))
    if any(line.points for line in decode):
        caption = msg("speed.figure.decode", where=words)
        lines = [line for line in decode if line.points]
        svg = by_length(
            lines,
            name=f"{name}-decode",
            description=caption,
            ylabel=msg("plot.tokens_per_second"),
            show=fmt.significant,
            log=False,
        )
        items.append(Figure(svg, caption))
    legend: list[tuple[Mark, Words]] = [
        (run.mark, run.label)
        for run, *both in zip(everything, ttft, decode, strict=True)
        if any(line.points for line in both)
    ]
    return Figures(items, legend) if items else None


def _limit_cells(limit: Limit | None, share: Share | None) -> list[Cell]:
    if limit is None or share is None:
        return [Cell(numeric=True), Cell(numeric=True), Cell()]
    roof = number(
        limit.roof_tokens_per_s,
        fmt.rate,
        "tokens/s",
        notes=(msg("speed.note.ttft", value=fmt.seconds(limit.roof_ttft_s)),),
    )
    prefill = () if share.mfu is None else (msg("speed.note.mfu", value=fmt.small_percent(share.mfu)),)
    mbu = () if share.mbu is None else (msg("speed.note.mbu", value=repr(share.mbu)),)
    mfu = () if share.mfu is None else (msg("speed.note.mfu", value=repr(share.mfu)),)
    exact = clauses((*mbu, *mfu)) if mbu or mfu else ""
    return [
        roof,
        Cell(fmt.MISSING if share.mbu is None else fmt.small_percent(share.mbu), prefill, exact, numeric=True),
        Cell(BOUND[limit.decode.by], (msg("bound.prefill", by=BOUND[limit.prefill.by]),)),
    ]


def _row(run: Run, cell: SpeedCell, heads: Sequence[Head]) -> list[Cell]:
    marks = (MARK,) if any(warning.startswith(CLIENT_BOUND) for warning in cell.warnings) else ()
    start = [replace(run.heading, anchor=cell_anchor(run, cell)), Cell("", marks, status=cell.status)]
    listed = recorded_cell(cell)
    if listed is None:
        why = clauses(map(recorded, cell.reasons)) if cell.reasons else fmt.MISSING
        return [*start, Cell(why, span=len(heads) - len(start))]
    summary = listed.recorded
    figures = [
        interval(summary.ttft_s, fmt.seconds, "s"),
        interval(summary.tpot_s, fmt.seconds, "s"),
        interval(summary.decode_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.prefill_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.e2e_s, fmt.seconds, "s"),
        interval(summary.output_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.qwen_speed_tokens_per_s, fmt.rate, "tokens/s"),
        number(summary.peak_memory_bytes, fmt.size, BYTES),
    ]
    trials = Cell(fmt.count(summary.n_trials), numeric=True)
    row = [*start, trials, *(replace(figure, faint=isinstance(listed, EmulatedCell)) for figure in figures)]
    if len(heads) > len(HEADS):
        limit = limit_of(run.record, listed) if isinstance(listed, MeasuredCell) else None
        share = against(limit, listed) if limit and isinstance(listed, MeasuredCell) else None
        row[LIMIT_COLUMN:LIMIT_COLUMN] = _limit_cells(limit, share)
    return row


def _table(everything: Sequence[Run]) -> Table:
    """Return the table of every cell, grouped by shape; with the physical limit if any cell has one."""
    limited = any(limit_of(run.record, cell) for run in everything for cell in run.measured())
    heads = (*HEADS[:LIMIT_COLUMN], *LIMIT_HEADS, *HEADS[LIMIT_COLUMN:]) if limited else HEADS
    shapes: dict[tuple[Load, Shape], list[list[Cell]]] = {}
    for run in everything:
        for cell in run.record.cells:
            # An objective judges the requests and does not change them.
            shape = shape_of(cell).model_copy(update={"objective": None})
            shapes.setdefault((_load(cell, run), shape), []).append(_row(run, cell, heads))
    several = len({load[0] for load, _ in shapes}) > 1
    groups = []
    for (load, shape), rows in sorted(shapes.items(), key=lambda pair: (pair[0][0], pair[0][1].input_len)):
        title = msg("shape.whole", n=shape.input_len, output=fmt.count(shape.output_len), load=_words(shape))
        groups.append(Group(rows, msg("word.of_model", model=load[0], what=title) if several else title))
    return Table(msg("speed.caption"), heads, groups)


def _where(label: str, places: Sequence[Words]) -> Words:
    where = linked(places) if len(places) <= 2 else msg("speed.cells", n=len(places))
    return msg("speed.where", label=label, where=where)


def _remarks(everything: Sequence[Run]) -> Iterator[Words]:
    """Yield warnings and unproven checks of cells with figures: each once, with its runs and shapes."""
    places_of: dict[Words, dict[str, list[Words]]] = {}
    for run in everything:
        for cell in run.record.cells:
            place = msg("shape.in_at", length=fmt.count(cell.input_len), load=_words(shape_of(cell)))
            unproven = (msg("speed.unproven", check=recorded(check)) for check in cell.unproven)
            for text in (*map(recorded, cell.warnings), *unproven):
                if cell.status in SHOWN:
                    places_of.setdefault(text, {}).setdefault(run.label, []).append(place)
    for text, by_run in places_of.items():
        where = clauses(_where(label, places) for label, places in by_run.items())
        yield msg("speed.remark", remark=text, where=where)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the speed section; None if no run planned a speed cell."""
    everything = runs(records)
    if not any(record.cells for record in records):
        return None
    loads = {
        _load(cell, run): msg(
            "speed.load", model=run.record.variant.model, n=cell.output_len, load=_words(shape_of(cell))
        )
        for run in everything
        for cell in run.record.cells
        if cell.request_rate_per_s is None
    }
    drawn = [_figures(everything, load, words, f"speed{index}") for index, (load, words) in enumerate(loads.items())]
    blocks: list[Block] = [figures for figures in drawn if figures]
    if blocks:
        how = [msg("speed.how")]
        if any(cell.status == "emulated" for record in records for cell in record.cells):
            how.append(msg("speed.how.emulated"))
        blocks.append(Text(sentences(how), "small"))
    blocks.append(_table(everything))
    reasons: list[Words] = [*reasons_of(everything, lambda run: run.record.cells), *_remarks(everything)]
    if reasons:
        blocks.append(Bullets(reasons))
    return Section("speed", msg("speed.title"), blocks)
