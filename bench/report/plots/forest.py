"""A forest plot: differences with their intervals, and the margin as a band."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import style
from matplotlib.axes import Axes

from bench.analysis.estimate import Estimate
from bench.messages.message import Words
from bench.report.document import Drawing, Mark
from bench.report.plots import base
from bench.report.plots.labels import Labels


@dataclass(frozen=True)
class ForestRow:
    """One difference, in shares of 1."""

    label: Words
    mark: Mark
    delta: Estimate
    """Drawn thick, with the marker."""
    wide: Estimate | None = None
    """A wider interval, drawn thin."""
    words: Words = ""
    """Written next to the row."""
    hollow: bool = False
    """Whether it is the baseline compared with itself."""


def _draw(axes: Axes, place: int, row: ForestRow, labels: Labels) -> None:
    colour = base.SERIES[row.mark.colour]
    if row.wide is not None:
        axes.plot([100 * row.wide.low, 100 * row.wide.high], [place, place], "-", color=colour, linewidth=0.9)
    axes.plot([100 * row.delta.low, 100 * row.delta.high], [place, place], "-", color=colour, linewidth=2.6)
    face = base.PAPER if row.hollow else colour
    axes.plot([100 * row.delta.value], [place], row.mark.marker, color=colour, markerfacecolor=face, markersize=6.5)
    axes.annotate(
        labels(row.words),
        (1, place),
        (6, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
    )


def forest(
    rows: Sequence[ForestRow], *, name: str, description: Words, xlabel: Words, margin: float | None = None
) -> Drawing:
    """Draw differences in percentage points from the top down.

    Args:
        rows: one or more.
        name: prefix of the drawing's ids.
        description: alternative text.
        xlabel: name of the x axis.
        margin: loss that does not matter, of 1, drawn as a band from there to 0; None draws no band.
    """
    with style.context(["default", base.STYLE]):
        figure, axes, labels = base._axes(0.75 + 0.27 * len(rows))
        if margin is not None:
            axes.axvspan(-100 * margin, 0, facecolor=base.FAINT, linewidth=0)
        axes.axvline(0, color=base.INK, linewidth=0.8)
        for place, row in enumerate(rows):
            _draw(axes, place, row, labels)
        base._rows(axes, [row.label for row in rows], "", labels)
        axes.set_xlabel(labels(xlabel))
        return base._inline(figure, name, description, labels)
