"""Speed by input length: two drawings for each closed loop, and every cell in a table. Others draw open loops."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench import format as fmt
from bench.limits.measured import Share, against, limit_of
from bench.limits.roofline import Limit
from bench.records.record import RunRecord, SpeedCell
from bench.report.document import (
    Block,
    Bullets,
    Cell,
    Figure,
    Figures,
    Group,
    Head,
    Section,
    Table,
    Text,
    interval,
    number,
)
from bench.report.plots.base import Point, Series, by_length
from bench.report.view import SHOWN, Run, cell_anchor, reasons_of, runs
from bench.speed.metrics import CellSummary, Interval, summarize
from bench.speed.shapes import Shape, shape_of
from bench.speed.validity import CLIENT_BOUND

ORDER = 20

Load = tuple[str, int, int, float, int]
"""Model, output length, concurrency, request rate (0 for a closed loop) and requests of a trial: what is compared."""
HEADS = (
    Head("Variant"),
    Head("Status"),
    Head("Trials", "measured trials, warm-up not counted", numeric=True),
    Head("TTFT", "time to first token", numeric=True),
    Head("TPOT", "time per output token after the first", numeric=True),
    Head("Decode speed", "1 / TPOT", numeric=True),
    Head("Prefill speed", "prompt tokens / TTFT", numeric=True),
    Head("End to end", "last token after the request began", numeric=True),
    Head("Output rate", "tokens of all requests at once / time", numeric=True),
    Head("Qwen speed", "(prompt + generated tokens) / end-to-end time; counts the prompt", numeric=True),
    Head("Peak memory", "highest memory of the server during the cell", numeric=True),
)
LIMIT_HEADS = (
    Head("Roof", "highest decode speed that the device allows; below it the least TTFT", numeric=True),
    Head("Of roof", "MBU of decoding; below it MFU of prefill", numeric=True),
    Head("Bound by", "what the roof of decoding is made of; below it that of prefill"),
)


BESIDE = 6
"""Column before which those of the limit stand: beside the decode speed."""
MARK = CLIENT_BOUND.rstrip(": ")


def _load(cell: SpeedCell, run: Run) -> Load:
    return run.record.variant.model, cell.output_len, cell.concurrency, cell.request_rate_per_s or 0.0, cell.n_requests


def _words(shape: Shape) -> str:
    """Return a shape's load, e.g. ``4 at once, 16 requests``."""
    if shape.request_rate_per_s is None and shape.n_requests == shape.concurrency:
        return shape.load
    return f"{shape.load}, {fmt.plural(shape.n_requests, 'request')}"


def _points(run: Run, load: Load, figure_of: Callable[[CellSummary], Interval | None]) -> tuple[Point, ...]:
    found = []
    for cell, summary in run.measured():
        value = figure_of(summary)
        if _load(cell, run) == load and value is not None:
            hollow = cell.status == "emulated"
            found.append(Point(cell.input_len, value.median, value.low, value.high, hollow))
    return tuple(found)


def _figures(everything: Sequence[Run], load: Load, words: str, name: str) -> Figures | None:
    """Return TTFT and decode speed over input length for one load; None if nothing of it was measured."""
    ttft = [Series(r.label, r.mark, _points(r, load, lambda s: s.ttft_s)) for r in everything]
    decode = [Series(r.label, r.mark, _points(r, load, lambda s: s.decode_tokens_per_s)) for r in everything]
    items = []
    if any(one.points for one in ttft):
        caption = f"Time to first token by input length, both logarithmic; lower is better. {words}."
        drawn = [one for one in ttft if one.points]
        svg = by_length(
            drawn, name=f"{name}-ttft", description=caption, ylabel="time to first token", show=fmt.seconds, log=True
        )
        items.append(Figure(svg, caption))
    if any(one.points for one in decode):
        caption = f"Decode speed of one request by input length; higher is better. {words}."
        drawn = [one for one in decode if one.points]
        svg = by_length(
            drawn,
            name=f"{name}-decode",
            description=caption,
            ylabel="tokens per second",
            show=fmt.significant,
            log=False,
        )
        items.append(Figure(svg, caption))
    legend = [
        (run.mark, run.label)
        for run, *both in zip(everything, ttft, decode, strict=True)
        if any(one.points for one in both)
    ]
    return Figures(items, legend) if items else None


def _limit_cells(limit: Limit | None, share: Share | None) -> list[Cell]:
    if limit is None or share is None:
        return [Cell(numeric=True), Cell(numeric=True), Cell()]
    roof = number(limit.roof_tokens_per_s, fmt.rate, "tokens/s", notes=(f"TTFT {fmt.seconds(limit.roof_ttft_s)}",))
    prefill = () if share.mfu is None else (f"MFU {fmt.small_percent(share.mfu)}",)
    exact = "; ".join(
        f"{name} {value!r}" for name, value in (("MBU", share.mbu), ("MFU", share.mfu)) if value is not None
    )
    return [
        roof,
        Cell(fmt.MISSING if share.mbu is None else fmt.small_percent(share.mbu), prefill, exact, numeric=True),
        Cell(limit.decode.by, (f"prefill: {limit.prefill.by}",)),
    ]


def _row(run: Run, cell: SpeedCell, heads: Sequence[Head]) -> list[Cell]:
    marks = (MARK,) if any(warning.startswith(CLIENT_BOUND) for warning in cell.warnings) else ()
    start = [replace(run.heading, anchor=cell_anchor(run, cell)), Cell("", marks, status=cell.status)]
    summary = summarize(cell)
    if summary is None:
        return [*start, Cell("; ".join(cell.reasons) or fmt.MISSING, span=len(heads) - len(start))]
    figures = [
        interval(summary.ttft_s, fmt.seconds, "s"),
        interval(summary.tpot_s, fmt.seconds, "s"),
        interval(summary.decode_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.prefill_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.e2e_s, fmt.seconds, "s"),
        interval(summary.output_tokens_per_s, fmt.rate, "tokens/s"),
        interval(summary.qwen_speed_tokens_per_s, fmt.rate, "tokens/s"),
        number(summary.peak_memory_bytes, fmt.size, "bytes"),
    ]
    trials = Cell(fmt.count(summary.n_trials), numeric=True)
    row = [*start, trials, *(replace(figure, faint=cell.status == "emulated") for figure in figures)]
    if len(heads) > len(HEADS):
        limit = limit_of(run.record, cell)
        row[BESIDE:BESIDE] = _limit_cells(limit, against(limit, summary) if limit else None)
    return row


def _table(everything: Sequence[Run]) -> Table:
    """Return every cell, one group a shape; with the physical limit where any cell has one."""
    limited = any(limit_of(run.record, cell) for run in everything for cell in run.record.cells)
    heads = (*HEADS[:BESIDE], *LIMIT_HEADS, *HEADS[BESIDE:]) if limited else HEADS
    shapes: dict[tuple[Load, Shape], list[list[Cell]]] = {}
    for run in everything:
        for cell in run.record.cells:
            # An objective judges the requests and does not change them.
            shape = shape_of(cell).model_copy(update={"objective": None})
            shapes.setdefault((_load(cell, run), shape), []).append(_row(run, cell, heads))
    several = len({load[0] for load, _ in shapes}) > 1
    groups = []
    for (load, shape), rows in sorted(shapes.items(), key=lambda pair: (pair[0][0], pair[0][1].input_len)):
        title = f"{fmt.plural(shape.input_len, 'token')} in, {fmt.count(shape.output_len)} out, {_words(shape)}"
        groups.append(Group(rows, f"{load[0]}: {title}" if several else title))
    return Table("Every speed cell: median over trials, and its interval below it", heads, groups)


def _where(label: str, places: Sequence[str]) -> str:
    return f"{label}: {' and '.join(places) if len(places) <= 2 else fmt.plural(len(places), 'cell')}"


def _remarks(everything: Sequence[Run]) -> Iterator[str]:
    """Yield warnings and unproven checks of cells with figures: each once, with the runs and shapes it holds for."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in everything:
        for cell in run.record.cells:
            place = f"{fmt.count(cell.input_len)} in, {_words(shape_of(cell))}"
            for text in (*cell.warnings, *(f"not proven: {check}" for check in cell.unproven)):
                if cell.status in SHOWN:
                    found.setdefault(text, {}).setdefault(run.label, []).append(place)
    for text, by_run in found.items():
        yield f"{text} ({'; '.join(_where(label, places) for label, places in by_run.items())})"


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the speed section; None if no run planned a speed cell."""
    everything = runs(records)
    if not any(record.cells for record in records):
        return None
    loads = {
        _load(
            cell, run
        ): f"{run.record.variant.model}, {fmt.plural(cell.output_len, 'token')} out, {_words(shape_of(cell))}"
        for run in everything
        for cell in run.record.cells
        if cell.request_rate_per_s is None
    }
    drawn = [_figures(everything, load, words, f"speed{index}") for index, (load, words) in enumerate(loads.items())]
    blocks: list[Block] = [figures for figures in drawn if figures]
    if blocks:
        how = "Points are medians over trials, bars the interval. "
        if any(cell.status == "emulated" for record in records for cell in record.cells):
            how += "Hollow markers on a dashed line are emulated: real times of this server, but not of the variant."
        blocks.append(Text(how, "small"))
    blocks.append(_table(everything))
    reasons = [*reasons_of(everything, lambda run: run.record.cells), *_remarks(everything)]
    if reasons:
        blocks.append(Bullets(reasons))
    return Section("speed", "Speed by input length", blocks)
