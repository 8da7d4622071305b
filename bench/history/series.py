"""A run's value in a series, and manually accepted epochs."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from quantize.key import Frozen

Figure = Literal["decode", "prefill"]

LEAST_ROUNDS = 5
"""Minimum rounds of a night: one spoiled round of five has little effect on the Hodges-Lehmann estimate."""


class Measurement(NamedTuple):
    """One run's measurement of a series."""

    run_id: str
    started_at: str
    """UTC, ISO 8601."""
    epoch: str
    """Hash of the conditions; see :func:`bench.history.index.epoch_of`."""
    value: float | None
    """Logarithm of the ratio of the variant's speed to the control's, over the rounds; None if there is none."""
    problem: str | None = None
    """Why there is no value."""


class EpochMark(Frozen):
    """A manually accepted run, with which a new epoch begins."""

    run_id: str
    reason: str
    at: str


def value_of(variant: Sequence[float], control: Sequence[float], status: str = "ok") -> float | str:
    """Return a run's value, or why it has none.

    Args:
        variant: time of each round of the variant.
        control: time of each round of the control.
        status: status of the variant's cell.
    """
    if status != "ok":
        return f"the cell is {status}"
    if len(control) != len(variant):
        return "no control took turns with it: a night's speed means nothing alone (baseline=bf16)"
    if len(variant) < LEAST_ROUNDS:
        return f"{len(variant)} rounds, at least {LEAST_ROUNDS} are needed (workload.trials={LEAST_ROUNDS})"
    return night_value(speeds(variant), speeds(control))


def speeds(times: Sequence[float]) -> tuple[float, ...]:
    """Return speeds, the inverses of positive times."""
    return tuple(1 / time for time in times if time > 0)


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the median of the means of all pairs of values, including each value with itself.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("no values")
    array = np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(array))
    return float(np.median((array[first] + array[second]) / 2))


def night_value(variant: Sequence[float], control: Sequence[float]) -> float:
    """Return a night's value from the speeds of its rounds, both in measured order.

    Raises:
        ValueError: the numbers of rounds differ, or a speed is not above 0.
    """
    if len(variant) != len(control):
        raise ValueError(f"{len(variant)} trials of the variant, {len(control)} of the control")
    if min((*variant, *control), default=1) <= 0:
        raise ValueError("a speed must be above 0")
    return hodges_lehmann([math.log(speed / reference) for speed, reference in zip(variant, control, strict=True)])
