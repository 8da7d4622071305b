"""Accuracy of the variants against the goal, with both intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import style
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.messages.message import Words, msg
from bench.report.document import Drawing, Mark
from bench.report.plots.base import INK, SERIES, STYLE, _axes, _inline, _ticks
from bench.speed.metrics import Interval


@dataclass(frozen=True)
class VariantPoint:
    """One variant."""

    label: str
    """Shown in the legend, not in the drawing, because points may overlap."""
    mark: Mark
    x: Interval
    y: Interval
    """Change of accuracy, of 1."""
    front: bool


def pareto(
    points: Sequence[VariantPoint], *, name: str, description: Words, xlabel: Words, show: Callable[[float], str]
) -> Drawing:
    """Draw variants by goal and accuracy.

    Args:
        points: one or more.
        name: prefix of the drawing's ids.
        description: alternative text.
        xlabel: the goal.
        show: formats it.
    """
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(3.0)
        for point in points:
            colour, at = SERIES[point.mark.colour], (point.x.median, 100 * point.y.median)
            axes.errorbar(
                *at,
                xerr=[[point.x.median - point.x.low], [point.x.high - point.x.median]],
                yerr=[[100 * (point.y.median - point.y.low)], [100 * (point.y.high - point.y.median)]],
                color=colour,
                marker=point.mark.marker,
                elinewidth=1,
                capsize=2,
            )
            if point.front:
                axes.plot(*at, "o", markersize=12, markerfacecolor="none", color=INK, linewidth=0.8)
        axes.margins(x=0.15, y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_ticks(show))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
        axes.set_xlabel(labels(xlabel))
        axes.set_ylabel(labels(msg("plot.accuracy_change")))
        return _inline(figure, name, description, labels)
