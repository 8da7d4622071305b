"""Curves over the load: one line per variant, with one point circled and named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from bench.messages.message import Words
from bench.report.document import Drawing, Mark
from bench.report.plots.base import SERIES, STYLE, _axes, _inline, _ticks
from bench.report.plots.labels import Labels


@dataclass(frozen=True)
class Curve:
    """One variant's points in the order of their load."""

    mark: Mark
    points: tuple[tuple[float, float], ...]
    """(x, y), in the unit of the axes."""
    ringed: int | None = None
    """Index of the circled point."""
    name: Words = ""
    """Written next to the circle."""


def _draw(axes: Axes, curve: Curve, labels: Labels) -> None:
    colour = SERIES[curve.mark.colour]
    x, y = zip(*curve.points, strict=True)
    axes.plot(x, y, "-", color=colour, marker=curve.mark.marker)
    if curve.ringed is not None:
        at = curve.points[curve.ringed]
        axes.plot(*at, "o", color=colour, markerfacecolor="none", markersize=12, markeredgewidth=1)
        axes.annotate(labels(curve.name), at, (8, -9), textcoords="offset points", fontsize=8)


def curves(
    lines: Sequence[Curve],
    *,
    name: str,
    description: Words,
    xlabel: Words,
    ylabel: Words,
    show: Callable[[float], str],
    ticks: Sequence[float] = (),
) -> Drawing:
    """Draw curves; x is logarithmic, y starts at zero.

    Args:
        lines: one per variant, each with a point or more.
        name: prefix of the drawing's ids.
        description: alternative text.
        xlabel: name of the x axis.
        ylabel: name of the y axis.
        show: formats a tick of x.
        ticks: positions of the ticks of x; round values by default.
    """
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(3.0)
        for curve in lines:
            _draw(axes, curve, labels)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(ticks)) if ticks else LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(_ticks(show))
        axes.margins(x=0.1)
        axes.set_ylim(0, 1.12 * max(y for curve in lines for _, y in curve.points) or 1)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel(labels(xlabel))
        axes.set_ylabel(labels(ylabel))
        return _inline(figure, name, description, labels)
