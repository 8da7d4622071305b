"""Size of the checkpoint on disk and memory of the server."""

from collections.abc import Sequence

from bench import format as fmt
from bench.messages.message import Words, msg
from bench.records.record import RunRecord
from bench.report.cells import peak_bytes, peak_cell
from bench.report.document import Cell, Figure, Figures, Group, Head, Section, Table, Text, number
from bench.report.plots.base import Point, Series, bars
from bench.report.units import BITS, BYTES, OF_ONE
from bench.report.view import Run, runs

ORDER = 40

HEADS = (
    Head(msg("head.variant")),
    Head(msg("head.checkpoint"), msg("head.checkpoint.help"), numeric=True),
    Head(msg("size.of_bf16"), msg("size.of_bf16.help"), numeric=True),
    Head(msg("head.bits_per_weight"), msg("head.bits_per_weight.help"), numeric=True),
    Head(msg("size.tensors"), msg("size.tensors.help")),
    Head(msg("size.peak"), msg("size.peak.help"), numeric=True),
)


def _row(run: Run) -> list[Cell]:
    checkpoint = run.record.checkpoint
    before = run.baseline.checkpoint if run.baseline else None
    return [
        run.heading,
        number(checkpoint.checkpoint_bytes if checkpoint else None, fmt.size, BYTES),
        number(
            checkpoint.checkpoint_bytes / before.checkpoint_bytes if checkpoint and before else None,
            fmt.percent,
            OF_ONE,
        ),
        number(checkpoint.bits_per_quantized_weight if checkpoint else None, fmt.significant, BITS),
        Cell(
            " · ".join(f"{fmt.count(n)} {dtype}" for dtype, n in checkpoint.tensors_by_dtype.items())
            if checkpoint
            else fmt.MISSING
        ),
        peak_cell(run),
    ]


def _figure(everything: Sequence[Run], values: Sequence[int | None], name: str, words: tuple[Words, Words]) -> Figure:
    """Return bars by variant; ``words`` are the description and the caption."""
    series = [
        Series(run.label, run.mark, () if value is None else (Point(row, value, value, value),))
        for row, (run, value) in enumerate(zip(everything, values, strict=True))
    ]
    description, caption = words
    return Figure(bars(series, name=name, description=description, xlabel="", show=fmt.size), caption)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the size section; None if there is neither a checkpoint nor a measured memory."""
    everything = runs(records)
    sizes = [run.record.checkpoint.checkpoint_bytes if run.record.checkpoint else None for run in everything]
    peaks = [peak_bytes(run.measured()) for run in everything]
    items = [
        _figure(everything, values, name, words)
        for values, name, words in (
            (sizes, "size", (msg("size.on_disk.description"), msg("size.on_disk"))),
            (peaks, "memory", (msg("size.in_memory.description"), msg("size.in_memory"))),
        )
        if any(value is not None for value in values)
    ]
    if not items:
        return None
    table = Table(msg("size.caption"), HEADS, [Group([_row(run) for run in everything])])
    return Section("size", msg("size.title"), [Figures(items), table, Text(msg("size.how"), "small")])
