"""Sections looked at as the values that they are made of."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from bench.messages.message import Message
from bench.records.record import RunRecord, TaskScore
from bench.report.document import Block, Cell, Details, Section, Table
from testkit.records import record

T = TypeVar("T")


def in_english(value: T) -> T:
    """Return a section, or what it is made of, with every message as its English text."""
    found: Any = value
    if isinstance(found, Message):
        found = str(found)
    elif isinstance(found, list | tuple):
        found = type(found)(map(in_english, found))
    elif isinstance(found, dict):
        found = {name: in_english(one) for name, one in found.items()}
    elif dataclasses.is_dataclass(found) and not isinstance(found, type):
        fields = {one.name: in_english(getattr(found, one.name)) for one in dataclasses.fields(found)}
        found = dataclasses.replace(found, **fields)
    return found  # type: ignore[no-any-return]


def scored(quant: str, *scores: TaskScore, **changes: Any) -> RunRecord:
    return record(quant, cells=(), checkpoint=None, scores=scores, **changes)


def blocks_of(blocks: Iterable[Block]) -> list[Block]:
    """Return blocks and all that are folded into them."""
    found: list[Block] = []
    for block in blocks:
        found.append(block)
        found += blocks_of(block.blocks) if isinstance(block, Details) else []
    return found


def rows_of(section: Section | None, caption: str = "") -> list[list[Cell]]:
    """Return the rows of the tables whose caption holds the text; each as wide as its table."""
    assert section is not None
    blocks = in_english(section.blocks)
    tables = [one for one in blocks_of(blocks) if isinstance(one, Table) and caption in str(one.caption)]
    assert all(sum(c.span for c in row) == len(one.heads) for one in tables for g in one.groups for row in g.rows)
    return [list(row) for one in tables for group in one.groups for row in group.rows]


def words(row: list[Cell]) -> str:
    return " | ".join(" ".join(map(str, filter(None, (cell.text, cell.verdict, *cell.notes)))) for cell in row)


def text_of(section: Section | None) -> str:
    assert section is not None
    return " ".join(str(getattr(block, "text", "")) for block in blocks_of(section.blocks))
