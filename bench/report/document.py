"""Values that a section is made of. Only the templates know HTML, and they escape everything in here.

The ``kind`` of a :class:`Block` names the template macro that renders it. Texts are messages, which the templates
render in the page's language, or names and figures, which every language shares.
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
    """One cell of a table; a dash if it is empty."""

    text: Words = MISSING
    notes: tuple[Words, ...] = ()
    """Smaller lines under the text."""
    exact: Words = ""
    """Shown on hover: the number with all its digits."""
    status: Status | None = None
    """Drawn as a badge before the notes."""
    verdict: Kind | None = None
    """Drawn as a badge on its own line before the notes."""
    mark: Mark | None = None
    numeric: bool = False
    faint: bool = False
    """Whether it is drawn in grey, because it is not a figure of the variant."""
    span: int = 1
    """Number of columns that it spans."""
    anchor: str = ""
    """Id that a link can point to."""
    link: str = ""
    """Target of its text: ``#`` and an id of this page, or a file in the same folder."""
    shade: str = ""
    """Its colour: ``u0`` (much slower) to ``u6`` (much faster), or ``void`` where there is no figure."""


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
    """A highlighted remark."""

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
    """Whether it is truncated to the width of row labels."""


@dataclass(frozen=True)
class Drawing:
    """An SVG from :mod:`bench.report.plots.base`: only drawings are markup in a document."""

    svg: Markup
    """Drawn and laid out with the English labels."""
    description: Words
    """Alternative text."""
    labels: Mapping[str, Label]
    """{label as drawn: its text}, without labels that are names or figures."""


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
    """The colour scale that they share."""


@dataclass(frozen=True)
class Term:
    """An explained term, or a fact and its name."""

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
    """A text shown exactly as written, with all lines and spaces."""

    kind: ClassVar[str] = "verbatim"
    title: Words
    text: str


@dataclass(frozen=True)
class Download:
    """A file embedded in the page."""

    name: str
    text: Words
    """Description."""
    href: str
    """A ``data:`` URL."""


@dataclass(frozen=True)
class Downloads:
    """Files to download."""

    kind: ClassVar[str] = "downloads"
    items: Sequence[Download]


@dataclass(frozen=True)
class Details:
    """Blocks that stay folded until opened."""

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
