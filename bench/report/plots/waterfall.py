"""The waterfall plot: factors as bars on a logarithmic axis, on which equal factors have equal lengths."""

from matplotlib import style
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from bench.analysis.waterfall import BOTH, CACHE, KERNELS, OVERHEAD, PREFILL, REST, WEIGHTS, Waterfall
from bench.messages.message import Words, msg
from bench.report.document import Drawing, Mark
from bench.report.plots import base

STEPS = {
    WEIGHTS: msg("waterfall.weights"),
    REST: msg("waterfall.rest"),
    CACHE: msg("waterfall.cache"),
    KERNELS: msg("waterfall.kernels"),
    OVERHEAD: msg("waterfall.overhead"),
    BOTH: msg("waterfall.both"),
    PREFILL: msg("waterfall.prefill"),
}
"""{factor: its words}."""
DECODE, END_TO_END = msg("waterfall.decode"), msg("waterfall.end_to_end")
"""The two products that were measured."""


def _bars(waterfall: Waterfall) -> list[tuple[Words, float, float, bool]]:
    """Return (name, from, to, whether it is a product that was measured) of each bar, from the top."""
    bars: list[tuple[Words, float, float, bool]] = []
    last = 1.0
    for step in waterfall.steps:
        if step.name == PREFILL:
            bars.append((DECODE, 1.0, last, True))
        bars.append((STEPS[step.name], last, step.product, False))
        last = step.product
    return [*bars, (END_TO_END, 1.0, last, True)]


def waterfall_plot(waterfall: Waterfall, *, mark: Mark, name: str, description: Words) -> Drawing:
    """Draw the factors of a speed-up from the top down; filled bars are products that were measured.

    Args:
        waterfall: the factors.
        mark: gives the colour.
        name: prefix of the drawing's ids.
        description: alternative text.
    """
    bars, colour = _bars(waterfall), base.SERIES[mark.colour]
    ends = [1.0, *(end for _, _, end, _ in bars)]
    with style.context(["default", base.STYLE]):
        figure, axes, labels = base._axes(0.75 + 0.27 * len(bars))
        for row, (_, begin, end, total) in enumerate(bars):
            face = colour if total else "none"
            axes.barh(row, end - begin, left=begin, height=0.62, facecolor=face, edgecolor=colour, linewidth=1)
            text = msg("waterfall.times", ratio=f"{end:.2f}") if total else f"× {end / begin:.2f}"
            axes.annotate(labels(text), (max(begin, end), row), (4, 0), textcoords="offset points", va="center")
        axes.axvline(1, color=base.INK, linewidth=0.8)
        base._rows(axes, [label for label, *_ in bars], msg("waterfall.axis"), labels)
        axes.set_xscale("log")
        axes.set_xlim(0.85 * min(ends), 1.7 * max(ends))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return base._inline(figure, name, description, labels)
