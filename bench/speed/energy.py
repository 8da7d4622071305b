"""Compute the energy of a trial from readings of the accelerators, and whether it is valid. Pure functions.

The device's own counter is taken where there is one (Volta and later); it is updated every 20 to 100 ms. Else power is
integrated over time, which is rougher: newer devices report the power averaged over the last second.

Sources: NVML API reference (nvmlDeviceGetTotalEnergyConsumption, nvmlDeviceGetPowerUsage); Yang, Adamek and Armour,
"Part-time Power Measurements: nvidia-smi's Lack of Attention" (2023), https://arxiv.org/abs/2312.02741.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.records.record import Energy

NS_PER_S = 1e9
MIN_UPDATES = 10
"""A counter must have been seen to move so often, for up to one update at either end is not the trial's."""
MIN_COUNTED_S = 1.0
"""Least time of a counted energy: ten updates of 100 ms."""
MIN_INTEGRATED_S = 10.0
"""Ten times the second over which power is averaged: its delay is then worth less than a tenth of the energy."""
MAX_GAP_S = 1.0
"""Longest time between two readings of power that may be bridged by a straight line."""


@dataclass(frozen=True)
class Reading:
    """What all devices told at one moment, in the same order every time."""

    at_ns: int
    power_w: tuple[float | None, ...]
    counter_j: tuple[float, ...] | None
    """None unless all of them have a counter."""


def counter_energy(readings: Sequence[Reading]) -> Energy | None:
    """Return the energy by the devices' own counters; None if the first or the last reading is without them.

    Valid if a second or more has passed and every device's counter was seen to move ten times or more, never
    backwards, with no reading missing.

    Args:
        readings: in the order of their times.
    """
    if not readings:
        return None
    first, last = readings[0], readings[-1]
    if first.counter_j is None or last.counter_j is None:
        return None
    known = [reading.counter_j for reading in readings if reading.counter_j is not None]
    steps = [[after - before for before, after in pairwise(device)] for device in zip(*known, strict=True)]
    valid = (
        (last.at_ns - first.at_ns) / NS_PER_S >= MIN_COUNTED_S
        and len(known) == len(readings)
        and all(min(device) >= 0 and sum(step > 0 for step in device) >= MIN_UPDATES for device in steps)
    )
    joules = sum(last.counter_j) - sum(first.counter_j)
    return Energy(total_j=max(joules, 0.0), how="counter", valid=valid)


def integrated_energy(readings: Sequence[Reading]) -> Energy | None:
    """Return the energy by power over time (trapezoids); None if there are not two readings of all devices.

    Valid if ten seconds or more have passed, no reading is missing or late, and no device's power stood still
    throughout.

    Args:
        readings: in the order of their times.
    """
    known = [(reading.at_ns, _all(reading.power_w)) for reading in readings]
    points = [(at_ns, watts) for at_ns, watts in known if watts]
    if len(points) < 2:
        return None
    gaps_s = [(later - at) / NS_PER_S for (at, _), (later, _) in pairwise(points)]
    totals = [sum(watts) for _, watts in points]
    joules = sum(gap * (before + after) / 2 for gap, (before, after) in zip(gaps_s, pairwise(totals), strict=True))
    valid = (
        (points[-1][0] - points[0][0]) / NS_PER_S >= MIN_INTEGRATED_S
        and len(points) == len(readings)
        and max(gaps_s) <= MAX_GAP_S
        and all(len(set(device)) > 1 for device in zip(*(watts for _, watts in points), strict=True))
    )
    return Energy(total_j=joules, how="integrated", valid=valid)


def energy(readings: Sequence[Reading]) -> Energy | None:
    """Return the energy of all devices together: counted if that is valid, else integrated if that is, else either.

    Args:
        readings: in the order of their times, the first at a trial's beginning, the last at its end.
    """
    known = [figure for figure in (counter_energy(readings), integrated_energy(readings)) if figure is not None]
    return next((figure for figure in known if figure.valid), known[0] if known else None)


def _all(values: Sequence[float | None]) -> tuple[float, ...]:
    """Return the values if every one is known, else nothing."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()
