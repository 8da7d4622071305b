"""What a command prints: progress while a run works, and tables; plain lines where there is no terminal."""

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
"""Without a terminal, a stage that goes on says so this often."""


class Stage:
    """One line of the view."""

    def __init__(self, view: "View", name: str, total: int | None) -> None:
        """Show ``name``; ``total`` steps, or None for a stage whose length is not known."""
        self._view = view
        self._name = name
        self._total = total
        self._done = 0
        self._detail = ""
        self._said = time.monotonic()
        self._begin = time.monotonic()
        self._task: TaskID | None = view.bars.add_task(name, total=total, detail="") if view.live else None

    def update(self, *, done: int | None = None, total: int | None = None, detail: str | None = None) -> None:
        """Show progress; also called with nothing, just to keep the clock moving."""
        self._done = self._done if done is None else done
        self._total = self._total if total is None else total
        self._detail = self._detail if detail is None else detail
        if self._task is not None:
            self._view.bars.update(self._task, completed=self._done, total=self._total, detail=escape(self._detail))
        elif time.monotonic() - self._said > PLAIN_S:
            self._said = time.monotonic()
            self._view.say(f"  {self._name}: {self._position()}{time.monotonic() - self._begin:.0f} s so far")

    def _position(self) -> str:
        count = f"{self._done} of {self._total}, " if self._total else ""
        return f"{self._detail}, {count}" if self._detail else count

    def end(self) -> float:
        """Take the line away, say how long it took, and return that in seconds."""
        seconds = time.monotonic() - self._begin
        if self._task is not None:
            self._view.bars.remove_task(self._task)
        self._view.say(f"  {self._name}: done in {seconds:.1f} s")
        return seconds


class View:
    """The view of one run. Use as a context manager."""

    def __init__(self, title: str) -> None:
        """Begin with ``title``, e.g. the variant's name."""
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
        """Show a stage for the duration of a ``with`` block."""
        line = Stage(self, name, total)
        try:
            yield line
        except BaseException:
            if self.live and line._task is not None:
                self.bars.remove_task(line._task)
            raise
        line.end()


PLAIN_WIDTH = 200
"""Columns of a table where no terminal says how many it has."""


class _Output(Console):
    """A console that leaves a closed pipe to the command."""

    def on_broken_pipe(self) -> None:
        """Raise what rich would turn into an exit of its own; called while that is handled."""
        raise BrokenPipeError(errno.EPIPE, "what the output was piped into has ended")


def console() -> Console:
    """Return where tables are printed: as wide as the terminal, or ``PLAIN_WIDTH``."""
    out = _Output(highlight=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = PLAIN_WIDTH
    return out


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
    grid = Table(title=escape(title), title_justify="left", caption=escape(caption) or None, caption_justify="left")
    for head in heads:
        grid.add_column(escape(head), justify="right" if head in numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(text) for text in row))
    return grid
