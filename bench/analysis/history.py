"""A series through its nights: each judged against those before it, as it would have been then. Pure functions.

Runs of one night belong together: the first is the night's measurement, the next one its second measurement. A night is
accepted, and so becomes part of the level, unless it was an alarm or could not be measured. A new epoch begins where
the conditions changed, or where a person said so (`Mark`).
"""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from bench.analysis.gate import Judgement, Kind, Rule, judge, night_value
from quantize.key import Frozen

NIGHT_BEGINS_H = 12
"""Hour, UTC, at which the next night begins: one run before midnight and one after it belong together."""
ALARMS: tuple[str, ...] = ("rerun", "regression", "drift")

Figure = Literal["decode", "prefill"]


class Measured(Frozen):
    """One run's measurement of a series."""

    run_id: str
    started_at: str
    """UTC, ISO 8601."""
    epoch: str
    """What the conditions were; see :func:`bench.index.epoch_of`."""
    variant: tuple[float, ...]
    """Speed of each round."""
    control: tuple[float, ...]
    """The same of the control."""
    problem: str | None = None
    """Why there is nothing to judge."""


class Mark(Frozen):
    """Somebody's word that from a run on everything counts anew."""

    run_id: str
    reason: str
    at: str


class Judged(Frozen):
    """A night and what it said."""

    night: str
    """The date on whose evening it began."""
    run_ids: tuple[str, ...]
    value: float | None
    """ln(variant / control), of both measurements where there are two."""
    kind: Kind | Literal["invalid"]
    judgement: Judgement | None
    reason: str
    epoch_begins: str | None
    """Why a new epoch begins with this night; None where it goes on."""

    @property
    def ratio(self) -> float | None:
        """Variant's speed / control's speed."""
        return None if self.value is None else math.exp(self.value)


def night_of(started_at: str) -> str:
    """Return the date on whose evening the night of a run began."""
    return str((datetime.fromisoformat(started_at) - timedelta(hours=NIGHT_BEGINS_H)).date())


def _by_night(runs: Iterable[Measured]) -> list[list[Measured]]:
    nights: dict[tuple[str, str], list[Measured]] = {}
    for run in sorted(runs, key=lambda one: one.started_at):
        nights.setdefault((night_of(run.started_at), run.epoch), []).append(run)
    return list(nights.values())


def _value(run: Measured, rule: Rule) -> float | str:
    """Return a run's value, or why it has none."""
    if run.problem:
        return run.problem
    if len(run.control) != len(run.variant):
        return "no control took turns with it: a night's speed means nothing alone (baseline=bf16)"
    if len(run.variant) < rule.least_rounds:
        return (
            f"{len(run.variant)} rounds, at least {rule.least_rounds} are needed (workload.trials={rule.least_rounds})"
        )
    return night_value(run.variant, run.control)


def replay(runs: Iterable[Measured], marks: Sequence[Mark] = (), *, rule: Rule | None = None) -> tuple[Judged, ...]:
    """Judge every night of a series in its turn, oldest first.

    Args:
        runs: all measurements of one series.
        marks: where a person began a new epoch.
        rule: when a night is an alarm.
    """
    rule = rule or Rule()
    marked = {mark.run_id: mark.reason for mark in marks}
    found: list[Judged] = []
    accepted: list[float] = []
    epoch: str | None = None
    for night in _by_night(runs):
        begins = next((marked[run.run_id] for run in night if run.run_id in marked), None)
        if begins is None and night[0].epoch != epoch:
            begins = "the first night" if epoch is None else "the machine, engine or packages changed"
        epoch = night[0].epoch
        if begins is not None:
            accepted = []
        one = _judge(night, accepted, begins, rule)
        found.append(one)
        if one.value is not None and one.kind not in ALARMS:
            accepted.append(one.value)
    return tuple(found)


def _judge(night: Sequence[Measured], accepted: Sequence[float], begins: str | None, rule: Rule) -> Judged:
    values = [_value(run, rule) for run in night]
    numbers = [value for value in values if not isinstance(value, str)]

    def said(kind: Kind | Literal["invalid"], reason: str, judgement: Judgement | None, value: float | None) -> Judged:
        return Judged(
            night=night_of(night[0].started_at),
            run_ids=tuple(run.run_id for run in night),
            value=value,
            kind=kind,
            judgement=judgement,
            reason=reason,
            epoch_begins=begins,
        )

    if not numbers:
        return said("invalid", str(values[-1]), None, None)
    again = sum(numbers[1:]) / len(numbers[1:]) if len(numbers) > 1 else None
    judgement = judge(accepted, numbers[0], again, rule=rule)
    value = numbers[0] if again is None else (numbers[0] + again) / 2
    return said(judgement.kind, judgement.reason, judgement, value)


def speeds(times: Sequence[float]) -> tuple[float, ...]:
    """Return times as speeds: their inverses."""
    return tuple(1 / time for time in times if time > 0)
