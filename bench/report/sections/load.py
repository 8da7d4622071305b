"""Load: throughput against latency as the load rises, the knee, and goodput."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench import format as fmt
from bench.analysis.knee import Knee, LoadPoint, LoadSeries, best_goodput, knee, load_of, load_points, series_of
from bench.messages.message import Message, Words, clauses, msg
from bench.records.record import RunRecord, SpeedCell
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Section, Table, Text, interval, number
from bench.report.plots.load import Curve, curves
from bench.report.recorded import recorded
from bench.report.shapes import load_words
from bench.report.units import OF_ONE, REQUESTS
from bench.report.view import Run, runs
from bench.speed.figures import EmulatedCell, measured_cell, recorded_cell
from bench.speed.metrics import CellSummary, Interval, Percentiles, is_saturated
from bench.speed.shapes import shape_of

ORDER = 26

HEADS = (
    Head(msg("head.load"), msg("load.load.help")),
    Head(msg("head.status")),
    Head(msg("load.requests_sent"), msg("load.requests_sent.help"), numeric=True),
    Head(msg("head.output_rate"), msg("load.output_rate.help"), numeric=True),
    Head(msg("load.request_rate"), msg("load.request_rate.help"), numeric=True),
    Head(msg("head.ttft"), msg("load.latency.help"), numeric=True),
    Head(msg("head.tpot"), msg("load.tpot.help"), numeric=True),
    Head(msg("load.pauses"), msg("load.pauses.help"), numeric=True),
    Head(msg("head.end_to_end"), msg("load.latency.help"), numeric=True),
)
BATCH_HEAD = Head(msg("load.batch_prefill"), msg("load.batch_prefill.help"), numeric=True)
GOOD_HEADS = (
    Head(msg("load.goodput"), msg("load.goodput.help"), numeric=True),
    Head(msg("load.good"), msg("load.good.help"), numeric=True),
)


@dataclass(frozen=True)
class _VariantLoads:
    """One run's cells of one series."""

    run: Run
    cells: tuple[SpeedCell, ...]
    """Lowest load first, whatever their status."""
    points: tuple[LoadPoint, ...]
    knee: Knee | None
    best: LoadPoint | None


def _line(run: Run, cells: Sequence[SpeedCell]) -> _VariantLoads:
    points = load_points(figures for cell in cells if (figures := measured_cell(cell)))
    return _VariantLoads(run, tuple(sorted(cells, key=load_of)), points, knee(points), best_goodput(points))


def _lines(everything: Sequence[Run]) -> dict[tuple[str, LoadSeries], list[_VariantLoads]]:
    """Return the lines of each model's series that belong here: an open loop, slots, or several concurrencies."""
    by_series: dict[tuple[str, LoadSeries], dict[int, list[SpeedCell]]] = {}
    for index, run in enumerate(everything):
        for cell in run.record.cells:
            key = run.record.variant.model, series_of(cell)
            by_series.setdefault(key, {}).setdefault(index, []).append(cell)
    return {
        key: [_line(everything[index], cells) for index, cells in by_run.items()]
        for key, by_run in by_series.items()
        if key[1].open_loop
        or key[1].requests_per_slot > 1
        or len({load_of(cell) for cells in by_run.values() for cell in cells}) > 1
    }


def _words(model: str, series: LoadSeries) -> Message:
    loop = msg("load.closed_loop")
    if series.open_loop:
        loop = msg("load.open_loop")
    elif series.requests_per_slot == 1:
        loop = msg("load.all_at_once")
    return msg("load.series", model=model, n=series.input_len, output=fmt.count(series.output_len), loop=loop)


def _load_text(series: LoadSeries, load: float) -> Message:
    return msg("load.rate", rate=f"{load:g}") if series.open_loop else msg("load.at_once", requests=f"{load:g}")


def _throughput(lines: Sequence[_VariantLoads], series: LoadSeries, words: Words, name: str) -> Figure | None:
    variant_curves = []
    for line in lines:
        points = [point for point in line.points if point.latency_s is not None]
        if points:
            ringed = points.index(line.knee.point) if line.knee else None
            text = _load_text(series, line.knee.point.load) if line.knee else ""
            at = tuple((point.latency_s or 0.0, point.throughput_tokens_per_s) for point in points)
            variant_curves.append(Curve(line.run.mark, at, ringed, text))
    if not variant_curves:
        return None
    caption = msg("load.figure.rate", where=words)
    svg = curves(
        variant_curves,
        name=name,
        description=caption,
        xlabel=msg("load.axis.end_to_end"),
        ylabel=msg("load.axis.output"),
        show=fmt.seconds,
    )
    return Figure(svg, caption)


def _goodput(lines: Sequence[_VariantLoads], series: LoadSeries, words: Words, name: str) -> Figure | None:
    variant_curves = []
    for line in lines:
        points = [point for point in line.points if point.goodput_requests_per_s is not None]
        if points:
            ringed = points.index(line.best) if line.best else None
            at = tuple((point.load, point.goodput_requests_per_s or 0.0) for point in points)
            variant_curves.append(Curve(line.run.mark, at, ringed, msg("load.highest") if line.best else ""))
    if not variant_curves or series.objective is None:
        return None
    ttft, tpot = fmt.seconds(series.objective.ttft_s), fmt.seconds(series.objective.tpot_s)
    caption = msg("load.figure.goodput", ttft=ttft, tpot=tpot, where=words)
    svg = curves(
        variant_curves,
        name=name,
        description=caption,
        xlabel=msg("load.axis.sent") if series.open_loop else msg("load.axis.at_once"),
        ylabel=msg("load.axis.good"),
        show=lambda value: f"{value:g}",
        ticks=sorted({x for curve in variant_curves for x, _ in curve.points}),
    )
    return Figure(svg, caption)


def _spread(value: Interval | None, pooled: Percentiles | None, show: Callable[[float], str], unit: str) -> Cell:
    """Return the cell of a median over trials, with the percentiles that there are enough requests for."""
    cell = interval(value, show, unit)
    return cell if value is None else replace(cell, notes=(*cell.notes, *_percentiles(pooled)))


def _percentiles(pooled: Percentiles | None) -> tuple[str, ...]:
    percentiles = (("p90", pooled.p90), ("p99", pooled.p99)) if pooled else ()
    return tuple(f"{name} {fmt.seconds(value)}" for name, value in percentiles if value is not None)


def _pauses(pooled: Percentiles | None) -> Cell:
    return number(pooled.p50 if pooled else None, fmt.seconds, "s", notes=_percentiles(pooled))


def _remarks(line: _VariantLoads, cell: SpeedCell) -> Iterator[Message]:
    """Yield the remarks on a load."""
    if line.knee and line.knee.point.load == load_of(cell):
        yield msg("load.knee") if line.knee.bracketed else msg("load.knee_or_beyond")
    if line.best and line.best.load == load_of(cell):
        yield msg("load.highest_goodput")
    if is_saturated(cell):
        yield msg("load.saturated")


def _figures(summary: CellSummary, heads: Sequence[Head]) -> list[Cell]:
    pooled = summary.e2e_percentiles_s
    cells = [
        number(pooled.n if pooled else None, lambda value: fmt.count(int(value)), REQUESTS),
        interval(summary.output_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.requests_per_s, fmt.significant, "requests/s"),
        _spread(summary.ttft_s, summary.ttft_percentiles_s, fmt.seconds, "s"),
        _spread(summary.tpot_s, summary.tpot_percentiles_s, fmt.seconds, "s"),
        _pauses(summary.itl_percentiles_s),
        _spread(summary.e2e_s, pooled, fmt.seconds, "s"),
    ]
    if BATCH_HEAD in heads:
        cells.append(interval(summary.batch_prefill_tokens_per_s, fmt.rate, "tokens/s"))
    if GOOD_HEADS[0] in heads:
        cells.append(interval(summary.goodput_requests_per_s, fmt.significant, "requests/s"))
        cells.append(interval(summary.good_share, fmt.percent, OF_ONE))
    return cells


def _row(line: _VariantLoads, cell: SpeedCell, heads: Sequence[Head]) -> list[Cell]:
    load = Cell(load_words(shape_of(cell)), tuple(_remarks(line, cell)), mark=line.run.mark)
    start = [load, Cell("", status=cell.status)]
    figures = recorded_cell(cell)
    if figures is None:
        why = clauses(map(recorded, cell.reasons)) if cell.reasons else fmt.MISSING
        return [*start, Cell(why, span=len(heads) - len(start))]
    faint = isinstance(figures, EmulatedCell)
    return [*start, *(replace(shown, faint=faint) for shown in _figures(figures.recorded, heads))]


def _table(by_series: dict[tuple[str, LoadSeries], list[_VariantLoads]]) -> Table:
    together = any(not series.open_loop and series.requests_per_slot == 1 for _, series in by_series)
    aimed = any(series.objective for _, series in by_series)
    heads = (*HEADS, *((BATCH_HEAD,) if together else ()), *(GOOD_HEADS if aimed else ()))
    groups = [
        Group(
            [_row(line, cell, heads) for cell in line.cells],
            msg("load.group", label=line.run.label, where=_words(model, series)),
        )
        for (model, series), lines in by_series.items()
        for line in lines
    ]
    return Table(msg("load.caption"), heads, groups)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the load section; None if no series belongs here."""
    by_series = _lines(runs(records))
    if not by_series:
        return None
    blocks: list[Block] = []
    for index, ((model, series), lines) in enumerate(by_series.items()):
        words = _words(model, series)
        figures = (
            _throughput(lines, series, words, f"load{index}-rate"),
            _goodput(lines, series, words, f"load{index}-good"),
        )
        items = [figure for figure in figures if figure]
        if items:
            blocks.append(Figures(items, [(line.run.mark, line.run.label) for line in lines if line.points]))
    if any(line.knee for lines in by_series.values() for line in lines):
        blocks.append(Text(msg("load.how"), "small"))
    blocks.append(_table(by_series))
    return Section("load", msg("load.title"), blocks)
