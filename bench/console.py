"""Terminal output: live progress and tables; plain lines without a terminal."""

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PROGRESS = Console(stderr=True, highlight=False)
PLAIN_S = 15.0
"""Interval between progress lines without a terminal."""


class Stage:
    """The progress line of one stage."""

    def __init__(self, view: "View", name: str, total: int | None) -> None:
        """Show ``name`` with ``total`` steps; None if their number is unknown."""
        self._view = view
        self._name = name
        self._total = total
        self._done = 0
        self._detail = ""
        self._printed_at = time.monotonic()
        self._begin = time.monotonic()
        self._task: TaskID | None = view.bars.add_task(name, total=total, detail="") if view.live else None

    def update(self, *, done: int | None = None, total: int | None = None, detail: str | None = None) -> None:
        """Show progress; without arguments, only refresh the elapsed time."""
        self._done = self._done if done is None else done
        self._total = self._total if total is None else total
        self._detail = self._detail if detail is None else detail
        if self._task is not None:
            self._view.bars.update(self._task, completed=self._done, total=self._total, detail=escape(self._detail))
        elif time.monotonic() - self._printed_at > PLAIN_S:
            self._printed_at = time.monotonic()
            self._view.say(f"  {self._name}: {self._position()}{time.monotonic() - self._begin:.0f} s so far")

    def _position(self) -> str:
        count = f"{self._done} of {self._total}, " if self._total else ""
        return f"{self._detail}, {count}" if self._detail else count

    def end(self) -> float:
        """Remove the line, print the stage's duration and return it in seconds."""
        seconds = time.monotonic() - self._begin
        if self._task is not None:
            self._view.bars.remove_task(self._task)
        self._view.say(f"  {self._name}: done in {seconds:.1f} s")
        return seconds


class View:
    """The terminal output of one run. Use as a context manager."""

    def __init__(self, title: str) -> None:
        """Use ``title``, e.g. the variant's name, as the first line."""
        self.live = PROGRESS.is_terminal
        self.title = title
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=PROGRESS,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self.live:
            self.bars.start()
        self.say(self.title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.bars.stop()

    def say(self, text: str) -> None:
        """Print one line above the live view."""
        PROGRESS.print(escape(text), soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """Show a stage's progress during a ``with`` block."""
        line = Stage(self, name, total)
        try:
            yield line
        except BaseException:
            if self.live and line._task is not None:
                self.bars.remove_task(line._task)
            raise
        line.end()


PLAIN_WIDTH = 200
"""Columns of a table without a terminal."""


class _Output(Console):
    """A console that raises on a closed pipe, for the command to handle."""

    def on_broken_pipe(self) -> None:
        """Raise the error again instead of exiting as rich does."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the pipe has exited")


def console() -> Console:
    """Return a console for tables, as wide as the terminal or ``PLAIN_WIDTH``."""
    out = _Output(highlight=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = PLAIN_WIDTH
    return out


def table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[str] = (), caption: str = ""
) -> Table:
    """Return a table of plain text, without rich's markup.

    Args:
        title: above it.
        heads: headings of the columns.
        rows: one text per column.
        numeric: headings of the right-aligned columns.
        caption: below it.
    """
    grid = Table(title=escape(title), title_justify="left", caption=escape(caption) or None, caption_justify="left")
    for head in heads:
        grid.add_column(escape(head), justify="right" if head in numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(text) for text in row))
    return grid
