"""Does a loss come from the quantization or from the engine? BF16 and a variant on two engines."""

from collections.abc import Sequence
from dataclasses import replace

from bench import format as fmt
from bench.analysis.damage import TwoByTwo
from bench.records.record import RunRecord
from bench.report.cells import delta_cell
from bench.report.document import Block, Bullets, Cell, Group, Head, Section, Table, Text
from bench.report.verdicts import OnEngines, on_engines

ORDER = 34

LEAD = (
    "BF16 and the variant answered the same items on two engines. A loss that is the same on both comes with the "
    "quantized weights; one that differs comes at least in part from how an engine computes with them."
)
HOW = "95 % intervals, each for itself alone: they are not corrected for their number."


def _source(table: TwoByTwo) -> tuple[str, str]:
    """Return where a loss comes from, and why."""
    first, second = table.deltas
    reading = f"{table.reading[0].upper()}{table.reading[1:]}."
    if not table.interaction.low <= 0 <= table.interaction.high:
        return "the engine, at least in part", reading
    if first.high < 0 and second.high < 0:
        return "the quantization", f"The loss is there on both engines. {reading}"
    return "cannot be told", f"A loss is not sure on both engines. {reading}"


def _row(one: OnEngines, table: TwoByTwo) -> list[Cell]:
    source, why = _source(table)
    cells = [Cell(one.variant, (one.task,)), Cell(source, (why,))]
    for baseline, variant, delta in zip(table.baseline_means, table.variant_means, table.deltas, strict=True):
        cell = delta_cell(delta)
        cells.append(replace(cell, notes=(*cell.notes, f"{fmt.share(baseline)} → {fmt.share(variant)}")))
    cells += [delta_cell(table.engine_gap), delta_cell(table.interaction), Cell(fmt.count(table.n), numeric=True)]
    return cells


def _table(engines: tuple[str, str], rows: Sequence[list[Cell]]) -> Table:
    heads = [Head("Variant"), Head("Where a loss comes from")]
    means = "means of BF16 and of the variant"
    heads += [
        Head(f"On {engine}", f"variant minus BF16, percentage points; below it {means}", numeric=True)
        for engine in engines
    ]
    heads += [
        Head("Engine alone", f"BF16 on {engines[1]} minus BF16 on {engines[0]}, percentage points", numeric=True),
        Head("Interaction", f"change on {engines[1]} minus change on {engines[0]}, percentage points", numeric=True),
        Head("Items", numeric=True),
    ]
    return Table(f"BF16 and variants on {engines[0]} and on {engines[1]}", heads, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the tables; None unless BF16 and a variant were scored on two engines."""
    found = on_engines(records)
    if not found:
        return None
    rows: dict[tuple[str, str], list[list[Cell]]] = {}
    for one in found:
        if one.table:
            rows.setdefault(one.table.engines, []).append(_row(one, one.table))
    blocks: list[Block] = [Text(LEAD)]
    blocks += [_table(engines, some) for engines, some in rows.items()]
    refused = [f"{one.variant}, {one.task}: not compared: {one.obstacle}" for one in found if not one.table]
    blocks += [Bullets(refused)] if refused else []
    return Section("engines", "Quantization or engine", [*blocks, Text(HOW, "small")] if rows else blocks)
