"""Compute the energy of a trial from readings of the accelerators, and whether it is valid. Pure functions.

The device's own counter is used where there is one (Volta and later); it is updated every 20 to 100 ms. Otherwise power
is integrated over time, which is less precise: newer devices report the power averaged over the last second.

Sources: NVML API reference (nvmlDeviceGetTotalEnergyConsumption, nvmlDeviceGetPowerUsage); Yang, Adamek and Armour,
"Part-time Power Measurements: nvidia-smi's Lack of Attention" (2023), https://arxiv.org/abs/2312.02741.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.records.record import Energy

NS_PER_S = 1e9
MIN_UPDATES = 10
"""Fewest observed updates of a counter, because up to one update at either end is not part of the trial."""
MIN_COUNTED_S = 1.0
"""Shortest time for a counted energy: ten updates of 100 ms."""
MIN_INTEGRATED_S = 10.0
"""Ten times the second over which power is averaged, so that its delay is less than a tenth of the energy."""
MAX_GAP_S = 1.0
"""Longest time between two power readings that is interpolated linearly."""


@dataclass(frozen=True)
class Reading:
    """The readings of all devices at one moment, always in the same order."""

    at_ns: int
    power_w: tuple[float | None, ...]
    counter_j: tuple[float, ...] | None
    """None unless all devices have a counter."""


def counter_energy(readings: Sequence[Reading]) -> Energy | None:
    """Return the energy by the devices' own counters; None if the first or the last reading has no counters.

    Valid if it covers a second or more, every device's counter increased ten times or more and never decreased, and no
    reading is missing.

    Args:
        readings: in chronological order.
    """
    if not readings:
        return None
    first, last = readings[0], readings[-1]
    if first.counter_j is None or last.counter_j is None:
        return None
    counters = [reading.counter_j for reading in readings if reading.counter_j is not None]
    steps = [[after - before for before, after in pairwise(device)] for device in zip(*counters, strict=True)]
    valid = (
        (last.at_ns - first.at_ns) / NS_PER_S >= MIN_COUNTED_S
        and len(counters) == len(readings)
        and all(min(device) >= 0 and sum(step > 0 for step in device) >= MIN_UPDATES for device in steps)
    )
    joules = sum(last.counter_j) - sum(first.counter_j)
    return Energy(total_j=max(joules, 0.0), how="counter", valid=valid)


def integrated_energy(readings: Sequence[Reading]) -> Energy | None:
    """Return the energy by integrating power over time (trapezoids); None with fewer than two readings of all devices.

    Valid if it covers ten seconds or more, no reading is missing or late, and every device's power changed.

    Args:
        readings: in chronological order.
    """
    powers = [(reading.at_ns, _all(reading.power_w)) for reading in readings]
    points = [(at_ns, watts) for at_ns, watts in powers if watts]
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
    """Return the energy of all devices: counted if that is valid, else integrated if that is valid, else either.

    Args:
        readings: in chronological order, the first at a trial's beginning, the last at its end.
    """
    energies = [figure for figure in (counter_energy(readings), integrated_energy(readings)) if figure is not None]
    return next((figure for figure in energies if figure.valid), energies[0] if energies else None)


def _all(values: Sequence[float | None]) -> tuple[float, ...]:
    """Return the values if all are known, or else an empty tuple."""
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()
