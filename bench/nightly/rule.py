"""The rule of the nightly gate: is tonight slower than the nights before? Pure functions over one series of one cell.

A night's value is the Hodges-Lehmann estimate of ln(variant / control) over its rounds. In every round the variant and
a pinned control cell are measured one after the other, so whatever slows the complete night cancels, and one spoiled
trial of five has little effect (Hodges and Lehmann 1963, Annals of Mathematical Statistics 34, 598). Higher speeds are
better; a latency enters as its inverse.

Two alarms, both on logarithms:

- *step*: tonight is more than ``z`` robust standard deviations below the median of the last accepted nights, and by at
  least ``least_change``; a second measurement in the same night must agree, both taken together.
- *drift*: a one-sided CUSUM from the level at the beginning of the epoch (Page 1954, Biometrika 41, 100) exceeds
  its bound, and the median of the last nights is below that level by at least ``least_drift``.

A new epoch (another machine, driver or version) has a new level. docs/nightly.md has the simulation that the defaults
were chosen by.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import PositiveFloat, PositiveInt

from bench.messages.message import Words, msg
from quantize.key import Frozen

MAD_TO_SD = 1.4826
"""Standard deviations of a normal distribution per median absolute deviation."""

Kind = Literal["fine", "rerun", "regression", "drift", "faster", "not_enough_data"]


class Rule(Frozen):
    """When a night is an alarm."""

    z: PositiveFloat = 3.0
    """Standard deviations below the level at which a night is a step."""
    least_change: PositiveFloat = 0.02
    """Least change that counts as a step, as a share of the level."""
    least_drift: PositiveFloat = 0.01
    """Least change that counts as a drift, as a share of the level."""
    window: PositiveInt = 20
    """Accepted nights from which the level and its spread are estimated."""
    least_nights: PositiveInt = 8
    """Accepted nights below which nothing is judged."""
    least_sd: PositiveFloat = 0.003
    """Lower bound of the standard deviation of nights: a few nights may agree by chance."""
    slack: PositiveFloat = 1.0
    """Allowance of the CUSUM for each night, in standard deviations."""
    bound: PositiveFloat = 8.0
    """Alarm threshold of the CUSUM, in standard deviations."""
    recent: PositiveInt = 5
    """Last nights whose median is the size of a drift."""


class Level(NamedTuple):
    """Level of a series, in the unit of the nights' values: logarithms of ratios."""

    median: float
    sd: float
    nights: int


class Judgement(NamedTuple):
    """The judgement of one night of a series."""

    kind: Kind
    change: float | None
    """Difference from the level as a share of it, positive if faster; None without a level."""
    z: float | None
    """Difference from the level in robust standard deviations."""
    cusum: float | None
    """The CUSUM below the epoch's first level, in standard deviations."""
    reason: Words


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def level_of(accepted: Sequence[float], rule: Rule) -> Level:
    """Return the level of the last ``rule.window`` accepted nights.

    Raises:
        ValueError: there is no night.
    """
    if not accepted:
        raise ValueError("no accepted nights")
    last = accepted[-rule.window :]
    median = _median(sorted(last))
    spread = MAD_TO_SD * _median(sorted([abs(value - median) for value in last]))
    return Level(median=median, sd=max(spread, rule.least_sd), nights=len(last))


class Track:
    """The accepted nights of one epoch, reduced to what a judgement needs and updated night by night.

    The CUSUM is one-sided; its level and spread are those of the epoch's first ``rule.window`` nights, which are not
    part of the sum.
    """

    def __init__(self, rule: Rule, accepted: Sequence[float] = ()) -> None:
        """Start an epoch with the nights it already has."""
        self.rule = rule
        self.nights = 0
        self.tail: list[float] = []
        """The last accepted nights, as many as a judgement needs."""
        self.start: Level | None = None
        """The epoch's first level; None until it has ``rule.window`` nights."""
        self.total = 0.0
        """The CUSUM after the last accepted night, in standard deviations."""
        for value in accepted:
            self.accept(value)

    def accept(self, value: float) -> None:
        """Add an accepted night."""
        self.total = self.total_with(value)
        self.nights += 1
        self.tail = [*self.tail, value][-max(self.rule.window, self.rule.recent) :]
        if self.nights == self.rule.window:
            self.start = level_of(self.tail, self.rule)

    def state(self) -> list[Any]:
        """Return the state as plain values, for :meth:`restored`."""
        start = self.start and [self.start.median, self.start.sd, self.start.nights]
        return [self.nights, self.tail, self.total, start]

    @classmethod
    def restored(cls, rule: Rule, state: Sequence[Any]) -> "Track":
        """Return a track restored from its state."""
        track = cls(rule)
        track.nights, track.tail, track.total, start = state
        track.start = Level(median=start[0], sd=start[1], nights=start[2]) if start else None
        return track

    def total_with(self, value: float) -> float:
        """Return the CUSUM with one more night."""
        if self.start is None:
            return 0.0
        return max(0.0, self.total - (value - self.start.median) / self.start.sd - self.rule.slack)

    def lost_with(self, value: float) -> float | None:
        """Return the change since the epoch's first level, with one more night, if it is a drift alarm; else None."""
        if self.start is None or self.total_with(value) <= self.rule.bound:
            return None
        recent = [*self.tail, value][-self.rule.recent :]
        lost = math.expm1(_median(sorted(recent)) - self.start.median)
        return lost if lost <= -self.rule.least_drift else None


def _away(value: float, level: Level, rule: Rule) -> int:
    """Return −1 if a value is an alarm below the level, 1 if it is as far above it, else 0."""
    distance = value - level.median
    far = abs(distance) / level.sd > rule.z and abs(math.expm1(distance)) >= rule.least_change
    return int(math.copysign(1, distance)) if far else 0


def judge(track: Track, tonight: float, rerun: float | None = None) -> Judgement:
    """Judge one night of one series.

    Args:
        track: the epoch so far.
        tonight: this night's value.
        rerun: the value of a second measurement in the same night, after an alarm.

    Returns:
        Kind ``rerun`` if a second measurement is needed; every other kind is final.
    """
    rule = track.rule
    if track.nights < rule.least_nights:
        return Judgement(
            kind="not_enough_data",
            change=None,
            z=None,
            cusum=None,
            reason=msg("night.few_nights", nights=str(track.nights), least=str(rule.least_nights)),
        )
    level = level_of(track.tail, rule)
    value = tonight if rerun is None else (tonight + rerun) / 2
    total = track.total_with(value)
    change, z = math.expm1(value - level.median), (value - level.median) / level.sd

    def judgement(kind: Kind, reason: Words) -> Judgement:
        return Judgement(kind=kind, change=change, z=z, cusum=total, reason=reason)

    difference, nights, deviations = f"{change:+.1%}", str(level.nights), f"{z:+.1f}"
    first = _away(tonight, level, rule)
    if first < 0 and rerun is None:
        return judgement("rerun", msg("night.rerun", change=difference, nights=nights, z=deviations))
    if first < 0 and _away(value, level, rule) < 0:
        return judgement("regression", msg("night.regression", change=difference, nights=nights, z=deviations))
    lost = track.lost_with(value)
    if lost is not None:
        return judgement("drift", msg("night.drift", change=f"{lost:+.1%}", cusum=f"{total:.1f}"))
    reason = msg("night.against", change=difference, nights=nights, z=deviations)
    return judgement("faster" if first > 0 else "fine", reason)
