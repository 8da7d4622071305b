"""Nights of a series of runs: a drawing and a row for each series, alarms first. Pure functions."""

from collections.abc import Mapping, Sequence

from bench import format as fmt
from bench.nightly.course import ALARMS, Judged, Standing
from bench.report.document import Block, Bullets, Cell, Details, Figure, Figures, Group, Head, Section, Table, Text
from bench.report.plots.history import timeline

HEADS = (
    Head("Series", "model, quantization, engine, input and output tokens, requests at once, and what is timed"),
    Head("Last night"),
    Head("Verdict", "of the gate, for the last night"),
    Head("Speed / control", "variant's speed / that of the baseline whose trials took turns with it", numeric=True),
    Head("Nights", "measured; below it how many were accepted into the level", numeric=True),
    Head("Epochs", "times at which the level began anew", numeric=True),
    Head("Why"),
)
HOW = (
    "Each night is the ratio of the variant's speed to that of a baseline measured in turns with it, so that a slow "
    "machine takes nothing from either. Dots were accepted into the level, triangles are alarms, dashed lines begin a "
    "new epoch: another machine, driver or version, or somebody's word."
)
DRAWN = 6
"""Series that are drawn; all of them stand in the table."""


def _ordered(standings: Mapping[str, Standing]) -> list[tuple[str, Standing]]:
    """Return series by name, those whose last night is an alarm first."""
    return sorted(standings.items(), key=lambda item: (item[1].last.kind not in ALARMS, item[0]))


def history_row(name: str, one: Standing) -> list[Cell]:
    """Return a series' row."""
    last = one.last
    ratio = Cell(f"{last.ratio:.3f}", exact=f"{last.ratio!r}", numeric=True) if last.ratio else Cell(numeric=True)
    return [
        Cell(name),
        Cell(last.night),
        Cell(last.kind.replace("_", " ")),
        ratio,
        Cell(fmt.count(one.nights), (f"{one.accepted} accepted",), f"{one.nights}", numeric=True),
        Cell(fmt.count(len(one.epochs)), numeric=True),
        Cell(last.reason),
    ]


def epochs_of(standings: Mapping[str, Standing]) -> list[str]:
    """Return when epochs began and why, each once."""
    return [f"{night}: {why}" for night, why in sorted({epoch for one in standings.values() for epoch in one.epochs})]


def drawn(standings: Mapping[str, Standing]) -> list[str]:
    """Return the names of the series that are drawn, alarms first."""
    return [name for name, one in _ordered(standings) if one.measured > 1][:DRAWN]


def _drawing(place: int, name: str, nights: Sequence[Judged]) -> Figure:
    last = nights[-1]
    caption = f"{name}: {last.kind.replace('_', ' ')}, {last.reason}"
    return Figure(timeline(nights, name=f"night{place}", description=caption), last.reason, title=name)


def history_section(standings: Mapping[str, Standing], nights: Mapping[str, Sequence[Judged]]) -> Section | None:
    """Return the section; None where no series has two nights.

    Args:
        standings: of every series.
        nights: of the series in :func:`drawn`.
    """
    if all(one.nights < 2 for one in standings.values()):
        return None
    figures = [_drawing(place, name, nights[name]) for place, name in enumerate(drawn(standings))]
    blocks: list[Block] = [Figures(figures)] if figures else []
    blocks += [
        Text(HOW, "small"),
        Table("Every series through its nights", HEADS, [Group([history_row(*item) for item in _ordered(standings)])]),
        Details("Epochs", [Bullets(epochs_of(standings))]),
    ]
    return Section("history", "Night by night", blocks)
