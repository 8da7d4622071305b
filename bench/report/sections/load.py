"""Load: throughput against latency as more requests come, where the knee lies, and how many were served well."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench import format as fmt
from bench.analysis.knee import Knee, LoadPoint, LoadSeries, best_goodput, knee, load_of, load_points, series_of
from bench.records.record import RunRecord, SpeedCell
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Section, Table, Text, interval, number
from bench.report.plots.load import Curve, curves
from bench.report.view import Run, runs
from bench.speed.metrics import CellSummary, Interval, Percentiles, is_saturated, summarize
from bench.speed.shapes import shape_of

ORDER = 26

HEADS = (
    Head("Load", "requests under way at once, or Poisson arrivals per second"),
    Head("Status"),
    Head("Requests", "of all trials together", numeric=True),
    Head("Output rate", "generated tokens of all requests / time", numeric=True),
    Head("Requests/s", "answered requests / time", numeric=True),
    Head("TTFT", "median over trials; in an open loop from when the request was due", numeric=True),
    Head("TPOT", "median over trials", numeric=True),
    Head("Pauses", "inter-token latency, all gaps between arrivals together", numeric=True),
    Head("End to end", "median over trials; in an open loop from when the request was due", numeric=True),
)
BATCH_HEAD = Head("Batch prefill", "all prompt tokens / time until every request has its first token", numeric=True)
GOOD_HEADS = (
    Head("Goodput", "requests per second that keep the objective", numeric=True),
    Head("Good", "share of requests that keep the objective", numeric=True),
)
HOW = (
    "The knee is the load with the highest throughput / latency (Kleinrock's power); beyond it, latency grows faster "
    "than throughput. Latency is the median end-to-end time."
)


@dataclass(frozen=True)
class _Line:
    """One run's cells of one series."""

    run: Run
    cells: tuple[SpeedCell, ...]
    """Lowest load first, whatever their status."""
    points: tuple[LoadPoint, ...]
    knee: Knee | None
    best: LoadPoint | None

    @property
    def emulated(self) -> bool:
        return any(cell.status == "emulated" for cell in self.cells)


def _line(run: Run, cells: Sequence[SpeedCell]) -> _Line:
    measured = [(cell, summary) for cell in cells if (summary := summarize(cell))]
    points = load_points(measured)
    return _Line(run, tuple(sorted(cells, key=load_of)), points, knee(points), best_goodput(points))


def _lines(everything: Sequence[Run]) -> dict[tuple[str, LoadSeries], list[_Line]]:
    """Return the lines of each model's series that show a load: an open loop, slots, or several concurrencies."""
    found: dict[tuple[str, LoadSeries], dict[int, list[SpeedCell]]] = {}
    for index, run in enumerate(everything):
        for cell in run.record.cells:
            key = run.record.variant.model, series_of(cell)
            found.setdefault(key, {}).setdefault(index, []).append(cell)
    return {
        key: [_line(everything[index], cells) for index, cells in by_run.items()]
        for key, by_run in found.items()
        if key[1].open_loop
        or key[1].requests_per_slot > 1
        or len({load_of(cell) for cells in by_run.values() for cell in cells}) > 1
    }


def _words(model: str, series: LoadSeries) -> str:
    words = f"{model}, {fmt.plural(series.input_len, 'token')} in, {fmt.count(series.output_len)} out"
    if series.open_loop:
        return f"{words}, open loop"
    return f"{words}, all at once" if series.requests_per_slot == 1 else f"{words}, closed loop"


def _load_text(series: LoadSeries, load: float) -> str:
    return f"{load:g} requests/s" if series.open_loop else f"{load:g} at once"


def _throughput(lines: Sequence[_Line], series: LoadSeries, words: str, name: str) -> Figure | None:
    drawn = []
    for line in lines:
        points = [point for point in line.points if point.latency_s is not None]
        if points:
            ringed = points.index(line.knee.point) if line.knee else None
            text = _load_text(series, line.knee.point.load) if line.knee else ""
            at = tuple((point.latency_s or 0.0, point.throughput_tokens_per_s) for point in points)
            drawn.append(Curve(line.run.mark, at, line.emulated, ringed, text))
    if not drawn:
        return None
    caption = f"Output rate against latency as the load rises; up and to the left is better, rings are knees. {words}."
    svg = curves(
        drawn,
        name=name,
        description=caption,
        xlabel="median end-to-end time",
        ylabel="output, tokens per second",
        show=fmt.seconds,
    )
    return Figure(svg, caption)


def _goodput(lines: Sequence[_Line], series: LoadSeries, words: str, name: str) -> Figure | None:
    drawn = []
    for line in lines:
        points = [point for point in line.points if point.goodput_requests_per_s is not None]
        if points:
            ringed = points.index(line.best) if line.best else None
            at = tuple((point.load, point.goodput_requests_per_s or 0.0) for point in points)
            drawn.append(Curve(line.run.mark, at, line.emulated, ringed, "highest" if line.best else ""))
    if not drawn or series.objective is None:
        return None
    objective = series.objective
    caption = (
        f"Requests per second with TTFT up to {fmt.seconds(objective.ttft_s)} and TPOT up to "
        f"{fmt.seconds(objective.tpot_s)}, by load; higher is better. {words}."
    )
    svg = curves(
        drawn,
        name=name,
        description=caption,
        xlabel="requests per second sent" if series.open_loop else "requests at once",
        ylabel="good requests per second",
        show=lambda value: f"{value:g}",
        ticks=sorted({x for curve in drawn for x, _ in curve.points}),
    )
    return Figure(svg, caption)


def _spread(value: Interval | None, pooled: Percentiles | None, show: Callable[[float], str], unit: str) -> Cell:
    """Return the cell of a median over trials, with the percentiles that there are enough requests for."""
    cell = interval(value, show, unit)
    return cell if value is None else replace(cell, notes=(*cell.notes, *_percentiles(pooled)))


def _percentiles(pooled: Percentiles | None) -> tuple[str, ...]:
    found = (("p90", pooled.p90), ("p99", pooled.p99)) if pooled else ()
    return tuple(f"{name} {fmt.seconds(value)}" for name, value in found if value is not None)


def _pauses(pooled: Percentiles | None) -> Cell:
    return number(pooled.p50 if pooled else None, fmt.seconds, "s", notes=_percentiles(pooled))


def _remarks(line: _Line, cell: SpeedCell) -> Iterator[str]:
    """Yield what is special about a load."""
    if line.knee and line.knee.point.load == load_of(cell):
        yield "knee" if line.knee.bracketed else "knee, or beyond"
    if line.best and line.best.load == load_of(cell):
        yield "highest goodput"
    if is_saturated(cell):
        yield "more than it can take"


def _figures(summary: CellSummary, heads: Sequence[Head]) -> list[Cell]:
    pooled = summary.e2e_percentiles_s
    found = [
        number(pooled.n if pooled else None, lambda value: fmt.count(int(value)), "requests"),
        interval(summary.output_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.requests_per_s, fmt.significant, "requests/s"),
        _spread(summary.ttft_s, summary.ttft_percentiles_s, fmt.seconds, "s"),
        _spread(summary.tpot_s, summary.tpot_percentiles_s, fmt.seconds, "s"),
        _pauses(summary.itl_percentiles_s),
        _spread(summary.e2e_s, pooled, fmt.seconds, "s"),
    ]
    if BATCH_HEAD in heads:
        found.append(interval(summary.batch_prefill_tokens_per_s, fmt.rate, "tokens/s"))
    if GOOD_HEADS[0] in heads:
        found.append(interval(summary.goodput_requests_per_s, fmt.significant, "requests/s"))
        found.append(interval(summary.good_share, fmt.percent, "of 1"))
    return found


def _row(line: _Line, cell: SpeedCell, heads: Sequence[Head]) -> list[Cell]:
    start = [Cell(shape_of(cell).load, tuple(_remarks(line, cell)), mark=line.run.mark), Cell("", status=cell.status)]
    summary = summarize(cell)
    if summary is None:
        return [*start, Cell("; ".join(cell.reasons) or fmt.MISSING, span=len(heads) - len(start))]
    return [*start, *(replace(one, faint=cell.status == "emulated") for one in _figures(summary, heads))]


def _table(found: dict[tuple[str, LoadSeries], list[_Line]]) -> Table:
    together = any(not series.open_loop and series.requests_per_slot == 1 for _, series in found)
    aimed = any(series.objective for _, series in found)
    heads = (*HEADS, *((BATCH_HEAD,) if together else ()), *(GOOD_HEADS if aimed else ()))
    groups = [
        Group([_row(line, cell, heads) for cell in line.cells], f"{line.run.label}: {_words(model, series)}")
        for (model, series), lines in found.items()
        for line in lines
    ]
    return Table("Every load: median over trials, its interval, and percentiles over all requests", heads, groups)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the load section; None if every cell is of one load alone."""
    found = _lines(runs(records))
    if not found:
        return None
    blocks: list[Block] = []
    for index, ((model, series), lines) in enumerate(found.items()):
        words = _words(model, series)
        drawn = (
            _throughput(lines, series, words, f"load{index}-rate"),
            _goodput(lines, series, words, f"load{index}-good"),
        )
        items = [figure for figure in drawn if figure]
        if items:
            blocks.append(Figures(items, [(line.run.mark, line.run.label) for line in lines if line.points]))
    if any(line.knee for lines in found.values() for line in lines):
        blocks.append(Text(HOW, "small"))
    blocks.append(_table(found))
    return Section("load", "Load", blocks)
