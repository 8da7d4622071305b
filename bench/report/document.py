"""What a section is made of: plain values. Only the templates know HTML, so everything in here is escaped there.

A :class:`Block` names the template macro that draws it in its ``kind``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from bench.analysis.verdict import Kind
from bench.format import MISSING, between, share
from bench.records.record import Metric, Status
from bench.speed.metrics import Interval


@dataclass(frozen=True)
class Mark:
    """How one run is drawn everywhere on the page."""

    colour: int
    """Index into the palette of ``style.css``."""
    marker: str
    """Marker in matplotlib's notation."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table; a dash if it has nothing to say."""

    text: str = MISSING
    notes: tuple[str, ...] = ()
    """Smaller lines under the text."""
    exact: str = ""
    """Shown on hover: the number with all its digits."""
    status: Status | None = None
    """Drawn as a badge: before the notes."""
    verdict: Kind | None = None
    """Drawn as a badge on a line of its own: before the notes."""
    mark: Mark | None = None
    numeric: bool = False
    faint: bool = False
    """Whether it must not be taken for a figure of the variant."""
    span: int = 1
    """Columns that it takes."""
    anchor: str = ""
    """Id by which a link can point at it."""
    link: str = ""
    """Where its text leads: an id of this page after ``#``, or a file beside it."""
    shade: str = ""
    """How it is coloured: ``u0`` (much slower) to ``u6`` (much faster), or ``void`` where there is no figure."""


def number(
    value: float | None,
    show: Callable[[float], str],
    unit: str = "",
    *,
    notes: tuple[str, ...] = (),
    faint: bool = False,
) -> Cell:
    """Return the cell of a measured number, with all its digits and its unit on hover; a dash for None."""
    if value is None:
        return Cell(numeric=True)
    return Cell(show(value), notes, f"{value!r} {unit}".strip(), numeric=True, faint=faint)


def interval(value: Interval | None, show: Callable[[float], str], unit: str) -> Cell:
    """Return the cell of a median with its interval below it."""
    if value is None:
        return Cell(numeric=True)
    exact = f"median {value.median!r} {unit}, interval {value.low!r} to {value.high!r} {unit}, n = {value.n}"
    spread = () if value.n == 1 else (between(show(value.low), show(value.high)),)
    return Cell(show(value.median), spread, exact, numeric=True)


def metric_cell(metric: Metric, notes: tuple[str, ...] = ()) -> Cell:
    """Return the cell of a score with its standard error."""
    spread = f" ± {share(metric.stderr)}" if metric.stderr is not None else ""
    exact = (
        f"{metric.name} {metric.value!r}, standard error {metric.stderr if metric.stderr is not None else 'unknown'}"
    )
    return Cell(f"{share(metric.value)}{spread}", notes, exact, numeric=True)


@dataclass(frozen=True)
class Head:
    """A column's heading."""

    text: str
    help: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Group:
    """Rows of a table that belong together. The first cell of a row is its heading."""

    rows: Sequence[Sequence[Cell]]
    title: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    style: str = ""
    """``lead``, ``small``, or nothing."""


@dataclass(frozen=True)
class Heading:
    """A heading below the section's own."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Note:
    """Something that must not be overlooked."""

    kind: ClassVar[str] = "note"
    title: str
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; rows in one or more groups."""

    kind: ClassVar[str] = "table"
    caption: str
    heads: Sequence[Head]
    groups: Sequence[Group]


@dataclass(frozen=True)
class Figure:
    """One drawing. ``svg`` is made by :mod:`bench.report.plots.base`: only drawings are markup in a document."""

    svg: Markup
    caption: str
    title: str = ""
    """Above the drawing."""
    mark: Mark | None = None
    """Before the title."""


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, with the legend that they share."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]
    legend: Sequence[tuple[Mark, str]] = ()
    scale: Markup | None = None
    """A drawing of the scale of colours that they share, made by :mod:`bench.report.plots.base`."""


@dataclass(frozen=True)
class Term:
    """Something explained, or a fact and its name."""

    name: str
    texts: tuple[str, ...]
    status: Status | None = None
    code: bool = False


@dataclass(frozen=True)
class Terms:
    """A list of explanations or facts."""

    kind: ClassVar[str] = "terms"
    items: Sequence[Term]


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    kind: ClassVar[str] = "code"
    lines: Sequence[str]


@dataclass(frozen=True)
class Verbatim:
    """A text as it was written, every line and space of it."""

    kind: ClassVar[str] = "verbatim"
    title: str
    text: str


@dataclass(frozen=True)
class Download:
    """A file that lies in the page itself."""

    name: str
    text: str
    """What it is."""
    href: str
    """A ``data:`` address."""


@dataclass(frozen=True)
class Downloads:
    """Files to take along."""

    kind: ClassVar[str] = "downloads"
    items: Sequence[Download]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: "Sequence[Block]"


Block = Text | Heading | Note | Bullets | Table | Figures | Terms | Code | Verbatim | Downloads | Details


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    id: str
    title: str
    blocks: Sequence[Block]
