"""What a section is made of: plain values. Only the templates know HTML, so everything in here is escaped there.

A :class:`Block` names the template macro that draws it in its ``kind``. Texts are messages, which the templates render
in the page's language, or names and figures, which every language shares.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from bench.analysis.verdict import Kind
from bench.format import MISSING, between, share
from bench.messages.message import Words, msg
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

    text: Words = MISSING
    notes: tuple[Words, ...] = ()
    """Smaller lines under the text."""
    exact: Words = ""
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
    unit: Words = "",
    *,
    notes: tuple[Words, ...] = (),
    faint: bool = False,
) -> Cell:
    """Return the cell of a measured number, with all its digits and its unit on hover; a dash for None."""
    if value is None:
        return Cell(numeric=True)
    exact = msg("exact.value", value=repr(value), unit=unit) if unit else repr(value)
    return Cell(show(value), notes, exact, numeric=True, faint=faint)


def interval(value: Interval | None, show: Callable[[float], str], unit: Words) -> Cell:
    """Return the cell of a median with its interval below it."""
    if value is None:
        return Cell(numeric=True)
    median, low, high = repr(value.median), repr(value.low), repr(value.high)
    exact = msg("exact.median", median=median, low=low, high=high, unit=unit, trials=str(value.n))
    spread = () if value.n == 1 else (between(show(value.low), show(value.high)),)
    return Cell(show(value.median), spread, exact, numeric=True)


def metric_cell(metric: Metric, notes: tuple[Words, ...] = ()) -> Cell:
    """Return the cell of a score with its standard error."""
    spread = f" ± {share(metric.stderr)}" if metric.stderr is not None else ""
    stderr = msg("exact.unknown") if metric.stderr is None else repr(metric.stderr)
    exact = msg("exact.metric", metric=metric.name, value=repr(metric.value), stderr=stderr)
    return Cell(f"{share(metric.value)}{spread}", notes, exact, numeric=True)


@dataclass(frozen=True)
class Head:
    """A column's heading."""

    text: Words
    help: Words = ""
    numeric: bool = False


@dataclass(frozen=True)
class Group:
    """Rows of a table that belong together. The first cell of a row is its heading."""

    rows: Sequence[Sequence[Cell]]
    title: Words = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: Words
    style: str = ""
    """``lead``, ``small``, or nothing."""


@dataclass(frozen=True)
class Heading:
    """A heading below the section's own."""

    kind: ClassVar[str] = "heading"
    text: Words


@dataclass(frozen=True)
class Note:
    """Something that must not be overlooked."""

    kind: ClassVar[str] = "note"
    title: Words
    text: Words


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[Words]


@dataclass(frozen=True)
class Table:
    """A table; rows in one or more groups."""

    kind: ClassVar[str] = "table"
    caption: Words
    heads: Sequence[Head]
    groups: Sequence[Group]


@dataclass(frozen=True)
class Label:
    """A text in a drawing."""

    words: Words
    short: bool
    """Whether it is cut to the width that labels of rows have."""


@dataclass(frozen=True)
class Drawing:
    """What :mod:`bench.report.plots.base` draws: only drawings are markup in a document."""

    svg: Markup
    """Drawn, and so laid out, with the English labels."""
    description: Words
    """For readers who cannot see it."""
    labels: Mapping[str, Label]
    """{label as it is drawn: its text}; labels that are names or figures are not among them."""


@dataclass(frozen=True)
class Figure:
    """One drawing and its caption."""

    drawing: Drawing
    caption: Words
    title: Words = ""
    """Above the drawing."""
    mark: Mark | None = None
    """Before the title."""


@dataclass(frozen=True)
class Figures:
    """Drawings side by side, with the legend that they share."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]
    legend: Sequence[tuple[Mark, Words]] = ()
    scale: Drawing | None = None
    """The scale of colours that they share."""


@dataclass(frozen=True)
class Term:
    """Something explained, or a fact and its name."""

    name: Words
    texts: tuple[Words, ...]
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
    title: Words
    text: str


@dataclass(frozen=True)
class Download:
    """A file that lies in the page itself."""

    name: str
    text: Words
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
    summary: Words
    blocks: "Sequence[Block]"


Block = Text | Heading | Note | Bullets | Table | Figures | Terms | Code | Verbatim | Downloads | Details


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    id: str
    title: Words
    blocks: Sequence[Block]
