"""Sections as values: their blocks, rows and texts."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from bench.messages.message import Message
from bench.records.record import RunRecord, TaskScore
from bench.report.document import Block, Cell, Details, Section, Table
from testkit.records import record

T = TypeVar("T")


def in_english(value: T) -> T:
    """Return a section, or a part of one, with every message as its English text."""
    english: Any = value
    if isinstance(english, Message):
        english = str(english)
    elif isinstance(english, list | tuple):
        english = type(english)(map(in_english, english))
    elif isinstance(english, dict):
        english = {name: in_english(part) for name, part in english.items()}
    elif dataclasses.is_dataclass(english) and not isinstance(english, type):
        fields = {field.name: in_english(getattr(english, field.name)) for field in dataclasses.fields(english)}
        english = dataclasses.replace(english, **fields)
    return english  # type: ignore[no-any-return]


def scored(quant: str, *scores: TaskScore, **changes: Any) -> RunRecord:
    return record(quant, cells=(), checkpoint=None, scores=scores, **changes)


def blocks_of(blocks: Iterable[Block]) -> list[Block]:
    """Return blocks and all blocks inside them."""
    flat: list[Block] = []
    for block in blocks:
        flat.append(block)
        flat += blocks_of(block.blocks) if isinstance(block, Details) else []
    return flat


def rows_of(section: Section | None, caption: str = "") -> list[list[Cell]]:
    """Return the rows of the tables whose caption contains the text; each is as wide as its table."""
    assert section is not None
    blocks = in_english(section.blocks)
    tables = [table for table in blocks_of(blocks) if isinstance(table, Table) and caption in str(table.caption)]
    assert all(sum(c.span for c in row) == len(table.heads) for table in tables for g in table.groups for row in g.rows)
    return [list(row) for table in tables for group in table.groups for row in group.rows]


def words(row: list[Cell]) -> str:
    return " | ".join(" ".join(map(str, filter(None, (cell.text, cell.verdict, *cell.notes)))) for cell in row)


def text_of(section: Section | None) -> str:
    assert section is not None
    return " ".join(str(getattr(block, "text", "")) for block in blocks_of(section.blocks))
