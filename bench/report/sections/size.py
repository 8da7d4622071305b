"""What a checkpoint weighs on disk and the server in memory."""

from collections.abc import Callable, Sequence

from bench import format as fmt
from bench.records.record import RunRecord
from bench.report.document import Cell, Figure, Figures, Group, Head, Section, Table, Text, number
from bench.report.plots.base import Point, Series, bars
from bench.report.view import Run, runs

ORDER = 40

HEADS = (
    Head("Variant"),
    Head("Checkpoint", "bytes of all safetensors files", numeric=True),
    Head("Of BF16", "checkpoint bytes as a share of the BF16 run's", numeric=True),
    Head("Bits / weight", "stored bits per quantized weight, scales and zero points included", numeric=True),
    Head("Tensors by dtype", "counted from the safetensors headers"),
    Head("Peak server memory", "highest resident memory in any speed cell with figures", numeric=True),
)


def _peak(run: Run) -> int | None:
    return max((s.peak_memory_bytes for _, s in run.measured() if s.peak_memory_bytes is not None), default=None)


def _row(run: Run) -> list[Cell]:
    made = run.record.checkpoint
    before = run.baseline.checkpoint if run.baseline else None
    return [
        run.heading,
        number(made.checkpoint_bytes if made else None, fmt.size, "bytes"),
        number(made.checkpoint_bytes / before.checkpoint_bytes if made and before else None, fmt.percent, "of 1"),
        number(made.bits_per_quantized_weight if made else None, fmt.significant, "bits"),
        Cell(
            " · ".join(f"{fmt.count(n)} {dtype}" for dtype, n in made.tensors_by_dtype.items()) if made else fmt.MISSING
        ),
        number(_peak(run), fmt.size, "bytes"),
    ]


def _emulated(run: Run) -> bool:
    return any(cell.status == "emulated" for cell, _ in run.measured())


def _figure(
    everything: Sequence[Run], values: Sequence[int | None], name: str, what: str, hollow: Callable[[Run], bool]
) -> Figure:
    series = [
        Series(run.label, run.mark, () if value is None else (Point(row, value, value, value, hollow(run)),))
        for row, (run, value) in enumerate(zip(everything, values, strict=True))
    ]
    return Figure(bars(series, name=name, description=f"{what} by variant", xlabel="", show=fmt.size), f"{what}.")


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the size section; None if there is neither a checkpoint nor a measured memory."""
    everything = runs(records)
    sizes = [run.record.checkpoint.checkpoint_bytes if run.record.checkpoint else None for run in everything]
    peaks = [_peak(run) for run in everything]
    items = [
        _figure(everything, values, name, what, hollow)
        for values, name, what, hollow in (
            (sizes, "size", "Checkpoint on disk", lambda run: False),
            (peaks, "memory", "Peak memory of the server; hollow where emulated", _emulated),
        )
        if any(value is not None for value in values)
    ]
    if not items:
        return None
    note = "Peak memory is that of the whole server process tree, the runtime's own share included. "
    note += "Where a variant ran emulated, it held weights expanded to 16 bits and says nothing about the variant."
    table = Table("Checkpoint and memory by variant", HEADS, [Group([_row(run) for run in everything])])
    return Section("size", "Size and memory", [Figures(items), table, Text(note, "small")])
