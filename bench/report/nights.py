"""Nights of a series of runs: a drawing and a row for each series, alarms first. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Literal

from bench import format as fmt
from bench.messages.message import Message, Words, msg
from bench.nightly.course import ALARMS, JudgedNight, Standing
from bench.nightly.rule import Kind
from bench.report.document import Block, Bullets, Cell, Details, Figure, Figures, Group, Head, Section, Table, Text
from bench.report.plots.history import timeline
from bench.report.recorded import recorded

HEADS = (
    Head(msg("head.series"), msg("history.series.help")),
    Head(msg("head.last_night")),
    Head(msg("verdict.head"), msg("history.verdict.help")),
    Head(msg("history.ratio"), msg("history.ratio.help"), numeric=True),
    Head(msg("head.nights"), msg("history.nights.help"), numeric=True),
    Head(msg("history.epochs"), msg("history.epochs.help"), numeric=True),
    Head(msg("head.why")),
)
KINDS: dict[Kind | Literal["invalid"], Message] = {
    "fine": msg("night.kind.fine"),
    "rerun": msg("night.kind.rerun"),
    "regression": msg("night.kind.regression"),
    "drift": msg("night.kind.drift"),
    "faster": msg("speedup.faster"),
    "not_enough_data": msg("speedup.too_few"),
    "invalid": msg("status.invalid"),
}
"""{verdict on a night: its words}."""
DRAWN = 6
"""Maximum number of series that are drawn; the table lists all of them."""


def _ordered(standings: Mapping[str, Standing]) -> list[tuple[str, Standing]]:
    """Return series by name, those whose last night is an alarm first."""
    return sorted(standings.items(), key=lambda item: (item[1].last.kind not in ALARMS, item[0]))


def _reason(night: JudgedNight) -> Words:
    return recorded(night.reason) if isinstance(night.reason, str) else night.reason


def history_row(name: str, standing: Standing) -> list[Cell]:
    """Return a series' row."""
    last = standing.last
    ratio = Cell(f"{last.ratio:.3f}", exact=f"{last.ratio!r}", numeric=True) if last.ratio else Cell(numeric=True)
    return [
        Cell(name),
        Cell(last.night),
        Cell(KINDS[last.kind]),
        ratio,
        Cell(
            fmt.count(standing.nights),
            (msg("history.accepted", nights=str(standing.accepted)),),
            f"{standing.nights}",
            numeric=True,
        ),
        Cell(fmt.count(len(standing.epochs)), numeric=True),
        Cell(_reason(last)),
    ]


def epochs_of(standings: Mapping[str, Standing]) -> list[Message]:
    """Return when each epoch began and why, without duplicates."""
    epochs = sorted({epoch for standing in standings.values() for epoch in standing.epochs})
    return [msg("history.epoch", night=night, why=recorded(why)) for night, why in epochs]


def drawn_series(standings: Mapping[str, Standing]) -> list[str]:
    """Return the names of the series that are drawn, alarms first."""
    return [name for name, standing in _ordered(standings) if standing.measured > 1][:DRAWN]


def _drawing(place: int, name: str, nights: Sequence[JudgedNight]) -> Figure:
    last, why = nights[-1], _reason(nights[-1])
    description = msg("history.description", series=name, kind=KINDS[last.kind], why=why)
    return Figure(timeline(nights, name=f"night{place}", description=description), why, title=name)


def history_section(standings: Mapping[str, Standing], nights: Mapping[str, Sequence[JudgedNight]]) -> Section | None:
    """Return the section; None if no series has two nights.

    Args:
        standings: of every series.
        nights: of the series in :func:`drawn_series`.
    """
    if all(standing.nights < 2 for standing in standings.values()):
        return None
    figures = [_drawing(place, name, nights[name]) for place, name in enumerate(drawn_series(standings))]
    blocks: list[Block] = [Figures(figures)] if figures else []
    blocks += [
        Text(msg("history.how"), "small"),
        Table(msg("history.caption"), HEADS, [Group([history_row(*item) for item in _ordered(standings)])]),
        Details(msg("history.epochs"), [Bullets(epochs_of(standings))]),
    ]
    return Section("history", msg("history.title"), blocks)
