"""The plot of a series over its nights: accepted nights, alarms, and the beginnings of epochs."""

from collections.abc import Sequence

from matplotlib import style
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.messages.message import Words, msg
from bench.nightly.course import ALARMS, JudgedNight
from bench.report.document import Drawing
from bench.report.plots.base import FAINT, INK, SERIES, STYLE, _axes, _inline

SHOWN_NIGHTS = 120
"""Newest nights that are drawn; more would be unreadable."""


def timeline(nights: Sequence[JudgedNight], *, name: str, description: Words) -> Drawing:
    """Draw variant / baseline by night.

    Args:
        nights: oldest first; those that could not be measured are left out.
        name: prefix of the drawing's ids.
        description: alternative text.
    """
    shown = [night for night in nights if night.ratio is not None][-SHOWN_NIGHTS:]
    ratios = [night.ratio or 0.0 for night in shown]
    places = range(len(shown))
    alarms = [place for place in places if shown[place].kind in ALARMS]
    fine = [place for place in places if shown[place].kind not in ALARMS]
    with style.context(["default", STYLE]):
        figure, axes, labels = _axes(1.9)
        axes.plot(places, ratios, "-", color=FAINT, linewidth=1)
        axes.plot(fine, [ratios[place] for place in fine], "o", color=SERIES[1], markersize=3.5)
        axes.plot(alarms, [ratios[place] for place in alarms], "v", color=SERIES[2], markersize=7)
        for place in places:
            if place and shown[place].epoch_begins:
                axes.axvline(place - 0.5, color=INK, linestyle=(0, (2, 2)), linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda at, _: shown[int(at)].night if 0 <= at < len(shown) and at == int(at) else "")
        )
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylabel(labels(msg("plot.speed_of_control")))
        axes.set_xlim(-0.7, max(len(shown) - 0.3, 1))
        return _inline(figure, name, description, labels)
