"""Nights of a series of runs: a drawing and a row for each series, alarms first. Pure functions."""

from collections.abc import Mapping, Sequence

from bench.analysis.history import ALARMS, Judged
from bench.report import format as fmt
from bench.report.document import Block, Bullets, Cell, Details, Figure, Figures, Group, Head, Section, Table, Text
from bench.report.history_plot import timeline

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


def _order(item: tuple[str, Sequence[Judged]]) -> tuple[bool, str]:
    return (item[1][-1].kind not in ALARMS, item[0])


def history_row(name: str, nights: Sequence[Judged]) -> list[Cell]:
    """Return a series' row."""
    last = nights[-1]
    accepted = sum(night.value is not None and night.kind not in ALARMS for night in nights)
    epochs = sum(night.epoch_begins is not None for night in nights)
    ratio = Cell(f"{last.ratio:.3f}", exact=f"{last.ratio!r}", numeric=True) if last.ratio else Cell(numeric=True)
    return [
        Cell(name),
        Cell(last.night),
        Cell(last.kind.replace("_", " ")),
        ratio,
        Cell(fmt.count(len(nights)), (f"{accepted} accepted",), f"{len(nights)}", numeric=True),
        Cell(fmt.count(epochs), numeric=True),
        Cell(last.reason),
    ]


def epochs_of(histories: Mapping[str, Sequence[Judged]]) -> list[str]:
    """Return when epochs began and why, each once."""
    found = {
        (night.night, night.epoch_begins): None
        for nights in histories.values()
        for night in nights
        if night.epoch_begins is not None
    }
    return [f"{night}: {why}" for night, why in sorted(found)]


def drawings(histories: Mapping[str, Sequence[Judged]], prefix: str) -> Figures | None:
    """Return the first series drawn, alarms first; None where nothing has two nights."""
    figures: list[Figure] = []
    for name, nights in sorted(histories.items(), key=_order):
        if len(figures) < DRAWN and sum(night.ratio is not None for night in nights) > 1:
            caption = f"{name}: {nights[-1].kind.replace('_', ' ')}, {nights[-1].reason}"
            drawn = timeline(nights, name=f"{prefix}{len(figures)}", description=caption)
            figures.append(Figure(drawn, nights[-1].reason, title=name))
    return Figures(figures) if figures else None


def history_section(histories: Mapping[str, Sequence[Judged]]) -> Section | None:
    """Return the section; None where no series has two nights."""
    if all(len(nights) < 2 for nights in histories.values()):
        return None
    ordered = sorted(histories.items(), key=_order)
    drawn = drawings(histories, "night")
    blocks: list[Block] = [drawn] if drawn else []
    blocks += [
        Text(HOW, "small"),
        Table("Every series through its nights", HEADS, [Group([history_row(*item) for item in ordered])]),
        Details("Epochs", [Bullets(epochs_of(histories))]),
    ]
    return Section("history", "Night by night", blocks)
