"""Does a loss come from the quantization or from the engine? BF16 and a variant on two engines."""

from collections.abc import Sequence
from dataclasses import replace

from bench import format as fmt
from bench.analysis.damage import TwoByTwo
from bench.messages.message import Words, msg, sentences
from bench.records.record import RunRecord
from bench.report.cells import delta_cell
from bench.report.document import Block, Bullets, Cell, Group, Head, Section, Table, Text
from bench.report.verdicts import OnEngines, on_engines

ORDER = 34


def _source(table: TwoByTwo) -> tuple[Words, Words]:
    """Return where a loss comes from, and why."""
    first, second = table.deltas
    if not table.interaction.low <= 0 <= table.interaction.high:
        return msg("engines.engine"), table.reading
    if first.high < 0 and second.high < 0:
        return msg("engines.quantization"), sentences([msg("engines.on_both"), table.reading])
    return msg("engines.undecided"), sentences([msg("engines.not_on_both"), table.reading])


def _row(comparison: OnEngines, table: TwoByTwo) -> list[Cell]:
    source, why = _source(table)
    cells = [Cell(comparison.variant, (comparison.task,)), Cell(source, (why,))]
    for baseline, variant, delta in zip(table.baseline_means, table.variant_means, table.deltas, strict=True):
        cell = delta_cell(delta)
        cells.append(replace(cell, notes=(*cell.notes, f"{fmt.share(baseline)} → {fmt.share(variant)}")))
    cells += [delta_cell(table.engine_gap), delta_cell(table.interaction), Cell(fmt.count(table.n), numeric=True)]
    return cells


def _table(engines: tuple[str, str], rows: Sequence[list[Cell]]) -> Table:
    first, second = engines
    heads = [
        Head(msg("head.variant")),
        Head(msg("engines.source")),
        *(Head(msg("engines.on", engine=engine), msg("engines.on.help"), numeric=True) for engine in engines),
        Head(msg("engines.alone"), msg("engines.alone.help", first=first, second=second), numeric=True),
        Head(msg("engines.interaction"), msg("engines.interaction.help", first=first, second=second), numeric=True),
        Head(msg("head.items"), numeric=True),
    ]
    return Table(msg("engines.caption", first=first, second=second), heads, [Group(rows)])


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the tables; None unless BF16 and a variant were scored on two engines."""
    comparisons = on_engines(records)
    if not comparisons:
        return None
    rows: dict[tuple[str, str], list[list[Cell]]] = {}
    for comparison in comparisons:
        if comparison.table:
            rows.setdefault(comparison.table.engines, []).append(_row(comparison, comparison.table))
    blocks: list[Block] = [Text(msg("engines.lead"))]
    blocks += [_table(engines, of_engines) for engines, of_engines in rows.items()]
    refused = [
        msg("engines.not_compared", variant=comparison.variant, task=comparison.task, why=comparison.obstacle)
        for comparison in comparisons
        if not comparison.table
    ]
    blocks += [Bullets(refused)] if refused else []
    blocks += [Text(msg("engines.how"), "small")] if rows else []
    return Section("engines", msg("engines.title"), blocks)
