"""Memory of a server over the time of one trial: a small drawing per variant, all with the same axes."""

from collections.abc import Sequence

from matplotlib import style
from matplotlib.ticker import MaxNLocator

from bench import format as fmt
from bench.messages.message import Words, msg
from bench.report.document import Drawing, Mark
from bench.report.plots.base import SERIES, STYLE, _axes, _inline, _ticks

HEIGHT = 1.7
"""Inches."""
NS_PER_S = 1e9


def over_time(
    points: Sequence[tuple[int, int]],
    mark: Mark,
    *,
    name: str,
    description: Words,
    last_ns: int,
    top_bytes: int,
) -> Drawing:
    """Draw bytes over seconds, from zero, with a marker at the highest.

    Args:
        points: (nanoseconds, bytes), in order of time; at least one.
        mark: of the run.
        name: prefix of the drawing's ids.
        description: alternative text.
        last_ns: end of the time axis.
        top_bytes: highest value that must fit on the y axis of all drawings.
    """
    colour = SERIES[mark.colour]
    at_s = [at_ns / NS_PER_S for at_ns, _ in points]
    used = [value for _, value in points]
    highest = max(range(len(used)), key=used.__getitem__)
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(HEIGHT)
        axes.plot(at_s, used, "-", color=colour, linewidth=1.2)
        axes.plot(at_s[highest], used[highest], mark.marker, color=colour)
        axes.set_xlim(0, max(last_ns / NS_PER_S, at_s[-1]) or 1)
        axes.set_ylim(0, 1.12 * top_bytes or 1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(_ticks(lambda value: f"{value:g} s"))
        axes.yaxis.set_major_formatter(_ticks(fmt.size))
        axes.set_xlabel(labels(msg("plot.trial_time")))
        return _inline(figure, name, description, labels)
