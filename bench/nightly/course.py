"""Judge the nights of a series one by one, each against the nights before it. Pure functions.

The first run of a night is its measurement, the next one its second measurement. A night is accepted, and becomes part
of the level, unless it was an alarm or has no value. A new epoch begins when the conditions change, or at a manually
accepted run (`EpochMark`).
"""

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple

from bench.history.series import EpochMark, Measurement
from bench.messages.message import Words, msg
from bench.nightly.rule import Judgement, Kind, Rule, Track, judge

NIGHT_BEGINS_H = 12
"""Hour, UTC, at which the next night begins: a run before midnight and one after it are the same night."""
ALARMS: tuple[str, ...] = ("rerun", "regression", "drift")


class JudgedNight(NamedTuple):
    """A night and its judgement."""

    night: str
    """Date of the evening on which it began."""
    run_ids: tuple[str, ...]
    value: float | None
    """Logarithm of the ratio of the variant's speed to the control's; with two measurements, their mean."""
    kind: Kind | Literal["invalid"]
    judgement: Judgement | None
    reason: Words
    """The judgement's reason, or the index's text for a night without a value."""
    epoch_begins: str | None
    """Why a new epoch begins with this night; None if the epoch continues."""

    @property
    def ratio(self) -> float | None:
        """Variant's speed / control's speed."""
        return None if self.value is None else math.exp(self.value)

    @property
    def is_accepted(self) -> bool:
        """Whether it is part of the level."""
        return self.value is not None and self.kind not in ALARMS


class Standing(NamedTuple):
    """Summary of a series after its last night."""

    last: JudgedNight
    nights: int
    measured: int
    """Nights with a value."""
    accepted: int
    epochs: tuple[tuple[str, str], ...]
    """(night, reason) of each new epoch."""


def standing_of(nights: Sequence[JudgedNight]) -> Standing:
    """Return the summary of a series from all of its nights, at least one."""
    return Standing(
        last=nights[-1],
        nights=len(nights),
        measured=sum(night.value is not None for night in nights),
        accepted=sum(night.is_accepted for night in nights),
        epochs=tuple((night.night, night.epoch_begins) for night in nights if night.epoch_begins is not None),
    )


@lru_cache(maxsize=100_000)
def night_of(started_at: str) -> str:
    """Return the date of the evening on which the night of a run began."""
    return str((datetime.fromisoformat(started_at) - timedelta(hours=NIGHT_BEGINS_H)).date())


def by_night(runs: Iterable[Measurement]) -> list[list[Measurement]]:
    """Return the runs of each night, nights and runs oldest first."""
    nights: dict[tuple[str, str], list[Measurement]] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        nights.setdefault((night_of(run.started_at), run.epoch), []).append(run)
    return list(nights.values())


class Course:
    """Judges the nights of a series in order; its state is small enough to be stored (:meth:`state`)."""

    def __init__(self, marks: Sequence[EpochMark] = (), *, rule: Rule | None = None) -> None:
        """Start before the first night.

        Args:
            marks: manually accepted epochs.
            rule: when a night is an alarm.
        """
        self._marked = {mark.run_id: mark.reason for mark in marks}
        self._rule = rule or Rule()
        self._track = Track(self._rule)
        self._epoch: str | None = None
        self._nights = self._measured = self._accepted = 0
        self._epochs: list[tuple[str, str]] = []

    def step(self, night: Sequence[Measurement]) -> JudgedNight:
        """Judge the next night and update the state."""
        begins = next((self._marked[run.run_id] for run in night if run.run_id in self._marked), None)
        if begins is None and night[0].epoch != self._epoch:
            begins = "the first night" if self._epoch is None else "the machine, engine or packages changed"
        self._epoch = night[0].epoch
        if begins is not None:
            self._track = Track(self._rule)
        judged = _judge(night, self._track, begins)
        if judged.value is not None and judged.is_accepted:
            self._track.accept(judged.value)
        self._nights += 1
        self._measured += judged.value is not None
        self._accepted += judged.is_accepted
        if begins is not None:
            self._epochs.append((judged.night, begins))
        return judged

    def standing(self, last: JudgedNight) -> Standing:
        """Return the summary of the series after ``last``, the result of the last :meth:`step`."""
        return Standing(last, self._nights, self._measured, self._accepted, tuple(self._epochs))

    def state(self) -> str:
        """Return the state as JSON, for :meth:`resume`."""
        counts = [self._nights, self._measured, self._accepted]
        return json.dumps([self._epoch, self._track.state(), counts, self._epochs])

    def resume(self, state: str) -> None:
        """Continue from a state saved under the same marks and rule."""
        self._epoch, track, counts, epochs = json.loads(state)
        self._track = Track.restored(self._rule, track)
        self._nights, self._measured, self._accepted = counts
        self._epochs = [(night, why) for night, why in epochs]


def replay(
    runs: Iterable[Measurement], marks: Sequence[EpochMark] = (), *, rule: Rule | None = None
) -> tuple[JudgedNight, ...]:
    """Judge every night of a series, oldest first.

    Args:
        runs: all measurements of one series.
        marks: manually accepted epochs.
        rule: when a night is an alarm.
    """
    course = Course(marks, rule=rule)
    return tuple(course.step(night) for night in by_night(runs))


def _judge(night: Sequence[Measurement], track: Track, begins: str | None) -> JudgedNight:
    values = [run.value for run in night if run.value is not None]
    rerun = sum(values[1:]) / len(values[1:]) if len(values) > 1 else None
    judgement = judge(track, values[0], rerun) if values else None
    return JudgedNight(
        night=night_of(night[0].started_at),
        run_ids=tuple(run.run_id for run in night),
        value=None if not values else values[0] if rerun is None else (values[0] + rerun) / 2,
        kind=judgement.kind if judgement else "invalid",
        judgement=judgement,
        reason=judgement.reason if judgement else night[-1].problem or msg("night.nothing"),
        epoch_begins=begins,
    )
