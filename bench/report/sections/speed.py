"""Speed by input length: two drawings for each shape of load, and every cell in a table."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.record import RunRecord, SpeedCell
from bench.report import format as fmt
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
from bench.report.plots import Point, Series, by_length
from bench.report.view import Run, reasons_of, runs
from bench.speed.metrics import CellSummary, Interval, summarize

ORDER = 20

Load = tuple[str, int, int]
"""Model, output length and concurrency: what cells must share to be drawn together."""
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
    Head("Peak memory", "highest resident memory of the server during the cell", numeric=True),
)


def _load(cell: SpeedCell, run: Run) -> Load:
    return run.record.variant.model, cell.output_len, cell.concurrency


def _points(run: Run, load: Load, figure_of: Callable[[CellSummary], Interval | None]) -> tuple[Point, ...]:
    found = []
    for cell, summary in run.measured():
        value = figure_of(summary)
        if _load(cell, run) == load and value is not None:
            hollow = cell.status == "emulated"
            found.append(Point(cell.input_len, value.median, value.low, value.high, hollow))
    return tuple(found)


def _figures(everything: Sequence[Run], load: Load, name: str) -> Figures | None:
    """Return TTFT and decode speed over input length for one load; None if nothing of it was measured."""
    model, output_len, concurrency = load
    words = f"{model}, {output_len} tokens out, concurrency {concurrency}"
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


def _row(run: Run, cell: SpeedCell) -> list[Cell]:
    start = [run.heading, Cell("", status=cell.status)]
    summary = summarize(cell)
    if summary is None:
        return [*start, Cell("; ".join(cell.reasons) or fmt.MISSING, span=len(HEADS) - len(start))]
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
    return [*start, trials, *(replace(figure, faint=cell.status == "emulated") for figure in figures)]


def _table(everything: Sequence[Run]) -> Table:
    shapes: dict[tuple[Load, int], list[list[Cell]]] = {}
    for run in everything:
        for cell in run.record.cells:
            shapes.setdefault((_load(cell, run), cell.input_len), []).append(_row(run, cell))
    several = len({load[0] for load, _ in shapes}) > 1
    groups = []
    for ((model, output_len, concurrency), input_len), rows in sorted(shapes.items(), key=lambda pair: pair[0]):
        title = f"{fmt.plural(input_len, 'token')} in, {fmt.count(output_len)} out, concurrency {concurrency}"
        groups.append(Group(rows, f"{model}: {title}" if several else title))
    return Table("Every speed cell: median over trials, and its interval below it", HEADS, groups)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the speed section; None if no run planned a speed cell."""
    everything = runs(records)
    if not any(record.cells for record in records):
        return None
    loads = dict.fromkeys(_load(cell, run) for run in everything for cell in run.record.cells)
    drawn = [_figures(everything, load, f"speed{index}") for index, load in enumerate(loads)]
    blocks: list[Block] = [figures for figures in drawn if figures]
    if blocks:
        how = "Points are medians over trials, bars the interval. "
        if any(cell.status == "emulated" for record in records for cell in record.cells):
            how += "Hollow markers on a dashed line are emulated: real times of this server, but not of the variant."
        blocks.append(Text(how, "small"))
    blocks.append(_table(everything))
    reasons = reasons_of(everything, lambda run: run.record.cells)
    if reasons:
        blocks.append(Bullets(reasons))
    return Section("speed", "Speed by input length", blocks)
