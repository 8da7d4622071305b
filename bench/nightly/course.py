"""A series through its nights: each judged against those before it, as it would have been then. Pure functions.

Runs of one night belong together: the first is the night's measurement, the next one its second measurement. A night is
accepted, and so becomes part of the level, unless it was an alarm or could not be measured. A new epoch begins where
the conditions changed, or where a person said so (`EpochMark`).
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
"""Hour, UTC, at which the next night begins: one run before midnight and one after it belong together."""
ALARMS: tuple[str, ...] = ("rerun", "regression", "drift")


class JudgedNight(NamedTuple):
    """A night and what it said."""

    night: str
    """The date on whose evening it began."""
    run_ids: tuple[str, ...]
    value: float | None
    """Logarithm of the ratio of the variant's speed to the control's, of both measurements where there are two."""
    kind: Kind | Literal["invalid"]
    judgement: Judgement | None
    reason: Words
    """A message, or what the index holds where nothing could be judged."""
    epoch_begins: str | None
    """Why a new epoch begins with this night; None where it goes on."""

    @property
    def ratio(self) -> float | None:
        """Variant's speed / control's speed."""
        return None if self.value is None else math.exp(self.value)

    @property
    def is_accepted(self) -> bool:
        """Whether it became part of the level."""
        return self.value is not None and self.kind not in ALARMS


class Standing(NamedTuple):
    """A series after its last night, in a few figures."""

    last: JudgedNight
    nights: int
    measured: int
    """Nights that have a value."""
    accepted: int
    epochs: tuple[tuple[str, str], ...]
    """(night, why) of each that began an epoch."""


def standing_of(nights: Sequence[JudgedNight]) -> Standing:
    """Return where a series stands whose nights, one or more, are all there."""
    return Standing(
        last=nights[-1],
        nights=len(nights),
        measured=sum(night.value is not None for night in nights),
        accepted=sum(night.is_accepted for night in nights),
        epochs=tuple((night.night, night.epoch_begins) for night in nights if night.epoch_begins is not None),
    )


@lru_cache(maxsize=100_000)
def night_of(started_at: str) -> str:
    """Return the date on whose evening the night of a run began."""
    return str((datetime.fromisoformat(started_at) - timedelta(hours=NIGHT_BEGINS_H)).date())


def by_night(runs: Iterable[Measurement]) -> list[list[Measurement]]:
    """Return the runs of each night, nights and runs oldest first."""
    nights: dict[tuple[str, str], list[Measurement]] = {}
    for run in sorted(runs, key=lambda one: one.started_at):
        nights.setdefault((night_of(run.started_at), run.epoch), []).append(run)
    return list(nights.values())


class Course:
    """A series on its way through the nights; what it has seen is kept in a few figures (:meth:`state`)."""

    def __init__(self, marks: Sequence[EpochMark] = (), *, rule: Rule | None = None) -> None:
        """Begin before the first night.

        Args:
            marks: where a person began a new epoch.
            rule: when a night is an alarm.
        """
        self._marked = {mark.run_id: mark.reason for mark in marks}
        self._rule = rule or Rule()
        self._track = Track(self._rule)
        self._epoch: str | None = None
        self._nights = self._measured = self._accepted = 0
        self._epochs: list[tuple[str, str]] = []

    def step(self, night: Sequence[Measurement]) -> JudgedNight:
        """Judge the next night and take it in."""
        begins = next((self._marked[run.run_id] for run in night if run.run_id in self._marked), None)
        if begins is None and night[0].epoch != self._epoch:
            begins = "the first night" if self._epoch is None else "the machine, engine or packages changed"
        self._epoch = night[0].epoch
        if begins is not None:
            self._track = Track(self._rule)
        one = _judge(night, self._track, begins)
        if one.value is not None and one.is_accepted:
            self._track.accept(one.value)
        self._nights += 1
        self._measured += one.value is not None
        self._accepted += one.is_accepted
        if begins is not None:
            self._epochs.append((one.night, begins))
        return one

    def standing(self, last: JudgedNight) -> Standing:
        """Return where the series stands after the night that :meth:`step` judged last."""
        return Standing(last, self._nights, self._measured, self._accepted, tuple(self._epochs))

    def state(self) -> str:
        """Return what to go on from, as JSON."""
        counts = [self._nights, self._measured, self._accepted]
        return json.dumps([self._epoch, self._track.state(), counts, self._epochs])

    def go_on(self, state: str) -> None:
        """Go on from a state, under the same marks and rule."""
        self._epoch, track, counts, epochs = json.loads(state)
        self._track = Track.restored(self._rule, track)
        self._nights, self._measured, self._accepted = counts
        self._epochs = [(night, why) for night, why in epochs]


def replay(
    runs: Iterable[Measurement], marks: Sequence[EpochMark] = (), *, rule: Rule | None = None
) -> tuple[JudgedNight, ...]:
    """Judge every night of a series in its turn, oldest first.

    Args:
        runs: all measurements of one series.
        marks: where a person began a new epoch.
        rule: when a night is an alarm.
    """
    course = Course(marks, rule=rule)
    return tuple(course.step(night) for night in by_night(runs))


def _judge(night: Sequence[Measurement], track: Track, begins: str | None) -> JudgedNight:
    numbers = [run.value for run in night if run.value is not None]
    again = sum(numbers[1:]) / len(numbers[1:]) if len(numbers) > 1 else None
    judgement = judge(track, numbers[0], again) if numbers else None
    return JudgedNight(
        night=night_of(night[0].started_at),
        run_ids=tuple(run.run_id for run in night),
        value=None if not numbers else numbers[0] if again is None else (numbers[0] + again) / 2,
        kind=judgement.kind if judgement else "invalid",
        judgement=judgement,
        reason=judgement.reason if judgement else night[-1].problem or msg("night.nothing"),
        epoch_begins=begins,
    )
