"""SVG drawings to embed in the page: the same values give the same bytes, for light and dark mode.

matplotlib cannot draw in CSS colours, so it draws in placeholder colours that are then replaced by CSS variables. It
uses the same ids in every drawing, so each drawing's ids get a prefix.
"""

import bisect
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from bench.messages.message import Words, english, msg
from bench.report.document import Drawing, Mark
from bench.report.plots.labels import Labels
from bench.report.view import COLOURS

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
INK, FAINT, PAPER = "#010101", "#020202", "#020203"
SERIES = tuple(f"#0300{index:02x}" for index in range(COLOURS))
EDGES = (0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Boundaries between the colours of a heat map. They are the same in every report, so that two reports can be compared;
the first and the last colour are open-ended."""
HEAT = tuple(f"#0301{index:02x}" for index in range(len(EDGES) + 1))
PLACEHOLDERS = {
    INK: "currentColor",
    FAINT: "var(--rule)",
    PAPER: "var(--paper)",
    **{colour: f"var(--h{index})" for index, colour in enumerate(HEAT)},
    **{colour: f"var(--c{index})" for index, colour in enumerate(SERIES)},
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantbench",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
}
WIDTH = 5.2
"""Inches, drawn at 72 units per inch."""
PAD = 3 / 72
"""Inches between labels and the figure's edge."""
ROW_HEIGHT = 0.19
"""Inches per row of a heat map."""
ElementTree.register_namespace("", SVG)


@dataclass(frozen=True)
class Point:
    """A measured value with its interval, in the unit of the axes; ``at`` is the position on the other axis."""

    at: float
    value: float
    low: float
    high: float
    hollow: bool = False
    """Whether the value is a limit, not a measurement."""


@dataclass(frozen=True)
class Series:
    """Points in one colour and with one marker; a series without points keeps its row."""

    label: Words
    mark: Mark
    points: tuple[Point, ...]


@dataclass(frozen=True)
class HeatRow:
    """One row of a heat map."""

    label: Words
    values: tuple[float | None, ...]
    """One per column, in the unit of the map; None for an empty cell."""
    figure: str
    """Written next to the row."""
    dots: frozenset[int] = frozenset()
    """Columns that are marked with a dot."""


def _ticks(show: Callable[[float], str]) -> FuncFormatter:
    """Return a tick formatter that applies ``show`` without trailing zeros: ``50 ms``, not ``50.0 ms``."""
    return FuncFormatter(lambda value, _: re.sub(r"\.0+(?!\d)|(\.\d*[1-9])0+(?!\d)", r"\1", show(value)))


def _declarations(style_of: str) -> Iterator[tuple[str, str]]:
    """Yield the properties of a style attribute; of a font only its size, because the page sets the rest."""
    for declaration in filter(str.strip, style_of.split(";")):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            yield "font-size", value.split(" ")[0]
        elif name != "font-family":
            yield name, value


def _inline(figure: Figure, name: str, description: Words, labels: Labels, height: float | None = None) -> Drawing:
    """Return the figure as an ``<svg>`` element that can share a page with others.

    Args:
        figure: the finished drawing.
        name: prefix of all ids, unique in the page.
        description: alternative text.
        labels: of the figure.
        height: as for `_lay_out`.
    """
    _lay_out(figure, height)
    target = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the text; matplotlib only measures it, and need not have a font for it.
        warnings.filterwarnings("ignore", message=r"Glyph \d+")
        figure.savefig(target, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(target.getvalue())
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata" or child.find(f"{{{SVG}}}style") is not None:
            root.remove(child)
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute == "id":
                element.set("id", f"{name}-{value}")
            elif attribute == XLINK:
                del element.attrib[XLINK]
                element.set("href", f"#{name}-{value.removeprefix('#')}")
            elif attribute == "clip-path":
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))
            elif attribute == "style":
                # As attributes: the page's policy allows no inline style.
                del element.attrib[attribute]
                for name_, setting in _declarations(value):
                    element.set(name_, re.sub(r"#0[123][0-9a-f]{4}", lambda match: PLACEHOLDERS[match[0]], setting))
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", english(description))
    return Drawing(Markup(ElementTree.tostring(root, encoding="unicode")), description, labels.by_text)


def _lay_out(figure: Figure, height: float | None = None) -> None:
    """Fit the axes into the space that their labels leave, as matplotlib's layouts do, but measure the labels once.

    Args:
        figure: with one pair of axes.
        height: height of the axes in inches, to which the figure is resized; None keeps the figure's height.
    """
    (axes,) = figure.axes
    outer = axes.get_tightbbox(for_layout_only=True)
    assert outer is not None
    inner, inch = axes.bbox, figure.dpi
    left, right = PAD + (inner.x0 - outer.x0) / inch, PAD + (outer.x1 - inner.x1) / inch
    below, above = PAD + (inner.y0 - outer.y0) / inch, PAD + (outer.y1 - inner.y1) / inch
    label_below = inner.y0 - axes.xaxis.label.get_position()[1]
    label_left = inner.x0 - axes.yaxis.label.get_position()[0]
    if height is not None:
        figure.set_figheight(below + height + above)
    whole = figure.get_figheight()
    axes.set_position((left / WIDTH, below / whole, 1 - (left + right) / WIDTH, 1 - (below + above) / whole))
    # Otherwise all labels are measured again to place the axes' names.
    axes.xaxis.set_label_coords(0.5, -label_below / axes.bbox.height)
    axes.yaxis.set_label_coords(-label_left / axes.bbox.width, 0.5)


def _axes(height: float) -> tuple[Figure, Axes, Labels]:
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes, Labels()


def _draw(axes: Axes, series: Series, *, along_x: bool, line: bool) -> None:
    """Draw one series: positions along x with a line through them, or along y without one."""
    colour = SERIES[series.mark.colour]
    for hollow in (False, True):
        points = [point for point in series.points if point.hollow == hollow]
        if not points:
            continue
        at, values = [point.at for point in points], [point.value for point in points]
        spread = [[point.value - point.low for point in points], [point.high - point.value for point in points]]
        place: dict[str, Any] = (
            {"x": at, "y": values, "yerr": spread} if along_x else {"x": values, "y": at, "xerr": spread}
        )
        axes.errorbar(
            **place,
            fmt=series.mark.marker,
            color=colour,
            markerfacecolor="none" if hollow else colour,
            elinewidth=1,
            capsize=2,
        )
    if line:
        dashes = "--" if any(point.hollow for point in series.points) else "-"
        axes.plot([p.at for p in series.points], [p.value for p in series.points], dashes, color=colour, linewidth=1.2)


def by_length(
    series: Sequence[Series], *, name: str, description: Words, ylabel: Words, show: Callable[[float], str], log: bool
) -> Drawing:
    """Draw values over input length (tokens, logarithmic).

    Args:
        series: one per variant; ``Point.at`` is the input length.
        name: prefix of the drawing's ids.
        description: alternative text.
        ylabel: name of the y axis, without unit.
        show: formats a tick.
        log: logarithmic y axis; otherwise it starts at zero.
    """
    lengths = sorted({point.at for variant in series for point in variant.points})
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(3.0)
        for variant in series:
            _draw(axes, variant, along_x=True, line=True)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(lengths))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.tick_params(axis="x", labelrotation=40 if len(lengths) > 4 else 0)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(0, 1.08 * max(point.high for variant in series for point in variant.points))
            axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(_ticks(show))
        axes.set_xlabel(labels(msg("plot.input_length")))
        axes.set_ylabel(labels(ylabel))
        return _inline(figure, name, description, labels)


def _rows(axes: Axes, rows: Sequence[Words], xlabel: Words, labels: Labels) -> None:
    axes.set_yticks(range(len(rows)), [labels(row, short=True) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(labels(xlabel, short=True))


def dots(series: Sequence[Series], *, name: str, description: Words, xlabel: Words) -> Drawing:
    """Draw one row per series with its value and interval; ``Point.at`` is the row.

    Args:
        series: one per variant, with one point or none.
        name: prefix of the drawing's ids.
        description: alternative text.
        xlabel: name of the x axis.
    """
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(0.7 + 0.27 * len(series))
        for variant in series:
            _draw(axes, variant, along_x=False, line=False)
        _rows(axes, [variant.label for variant in series], xlabel, labels)
        return _inline(figure, name, description, labels)


def bars(
    series: Sequence[Series], *, name: str, description: Words, xlabel: Words, show: Callable[[float], str]
) -> Drawing:
    """Draw one bar per series from zero, with its value next to it; ``Point.at`` is the row.

    Args:
        series: one per variant, with one point or none.
        name: prefix of the drawing's ids.
        description: alternative text.
        xlabel: name of the x axis.
        show: formats values and ticks.
    """
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(0.7 + 0.27 * len(series))
        for variant in series:
            for point in variant.points:
                colour = SERIES[variant.mark.colour]
                axes.barh(point.at, point.value, height=0.62, facecolor=colour, edgecolor=colour, linewidth=1)
                axes.annotate(
                    show(point.value), (point.value, point.at), (4, 0), textcoords="offset points", va="center"
                )
        axes.margins(x=0.16)
        axes.set_xlim(left=0)
        _rows(axes, [variant.label for variant in series], xlabel, labels)
        axes.xaxis.set_major_formatter(_ticks(show))
        return _inline(figure, name, description, labels)


def _heat_colour(value: float) -> str:
    """Return the placeholder colour of a share; exact zero has a colour of its own."""
    return HEAT[bisect.bisect_right(EDGES, value)] if value else FAINT


def _rectangles(places: Sequence[tuple[float, float, float, float]], colour: str) -> PathPatch:
    """Return rectangles (left, bottom, right, top) as one path, which is smaller than one path each."""
    paths = [Path([(a, b), (c, b), (c, d), (a, d), (a, b)], closed=True) for a, b, c, d in places]
    # The thin edge closes the hairline that a browser leaves between neighbours.
    return PathPatch(Path.make_compound_path(*paths), facecolor=colour, edgecolor=colour, linewidth=0.25)


def heat_map(
    rows: Sequence[HeatRow],
    *,
    name: str,
    description: Words,
    xlabel: Words,
    figure_label: Words,
    columns: Sequence[Words] = (),
) -> Drawing:
    """Draw shares as colours of one scale (:func:`heat_scale`), with each row's figure next to it.

    Args:
        rows: all with the same number of values.
        name: prefix of the drawing's ids.
        description: alternative text.
        xlabel: what the columns are.
        figure_label: heading of the figures next to the rows.
        columns: labels of the columns; numbered from 0 by default.
    """
    width = len(rows[0].values)
    places: dict[str, list[tuple[float, float, float, float]]] = {}
    for y, row in enumerate(rows):
        left = 0
        for colour, run in groupby(None if value is None else _heat_colour(value) for value in row.values):
            right = left + len(list(run))
            if colour:
                places.setdefault(colour, []).append((left - 0.5, y - 0.43, right - 0.5, y + 0.43))
            left = right
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(ROW_HEIGHT * len(rows) + 1)
        for colour, rectangles in sorted(places.items()):
            axes.add_patch(_rectangles(rectangles, colour))
        dots = [(x, y) for y, row in enumerate(rows) for x in sorted(row.dots)]
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", color=PAPER, markersize=2.6, markeredgewidth=0)
        for y, row in enumerate(rows):
            axes.annotate(row.figure, (width - 0.5, y), (6, 0), textcoords="offset points", va="center")
        label = labels(figure_label)
        axes.annotate(label, (width - 0.5, -0.5), (6, 3), textcoords="offset points", va="bottom", fontsize=8)
        _rows(axes, [row.label for row in rows], xlabel, labels)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.5, width - 0.5)
        if columns:
            ticks = [labels(column, short=True) for column in columns]
            axes.set_xticks(range(width), ticks, rotation=40, ha="right", rotation_mode="anchor")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(min(10, max(1, width - 1)), integer=True))
        return _inline(figure, name, description, labels, ROW_HEIGHT * len(rows))


def heat_scale(*, name: str) -> Drawing:
    """Draw the colours of all heat maps and the shares at which they change."""
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(0.58)
        axes.add_patch(_rectangles([(-1.6, 0, -0.6, 1)], FAINT))
        for index, colour in enumerate(HEAT):
            axes.add_patch(_rectangles([(index, 0, index + 1, 1)], colour))
        axes.set_xlim(-1.6, len(HEAT) + 0.2)
        axes.set_ylim(0, 1)
        edges = ["0", *(f"{100 * edge:g}" for edge in EDGES)]
        edges[-1] += " %"
        axes.set_xticks([-1.1, *range(1, len(HEAT))], edges)
        axes.set_yticks([])
        axes.set_xlabel(labels(msg("plot.relative_error")))
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        description = msg("plot.heat_scale", edges=", ".join(edges[1:]))
        return _inline(figure, name, description, labels)
