"""Tables in a terminal, and the same where there is none."""

import os
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PLAIN_WIDTH = 200
"""Columns of a table where no terminal says how many it has."""


def console() -> Console:
    """Return where tables are printed: as wide as the terminal, or ``PLAIN_WIDTH``."""
    found = Console(highlight=False)
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = PLAIN_WIDTH
    return found


def table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[str] = (), caption: str = ""
) -> Table:
    """Return a table of plain texts: nothing in them is taken for markup.

    Args:
        title: above it.
        heads: headings of the columns.
        rows: one text per column.
        numeric: headings of the columns that are set to the right.
        caption: below it.
    """
    made = Table(title=escape(title), title_justify="left", caption=escape(caption) or None, caption_justify="left")
    for head in heads:
        made.add_column(escape(head), justify="right" if head in numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(text) for text in row))
    return made
