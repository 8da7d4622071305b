"""Energy from readings: sums, and when they are valid. Pure functions only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.speed.energy import NS_PER_S, Reading, counter_energy, energy, integrated_energy

JOULES = st.floats(0, 1e6)


def readings(
    n: int, period_s: float, watts: float | None = 300.0, counter: bool = True, devices: int = 1
) -> list[Reading]:
    """Return readings of devices that draw slightly more than ``watts``, by counter and by power."""
    return [
        Reading(
            round(i * period_s * NS_PER_S),
            tuple(None if watts is None else watts + i % 2 for _ in range(devices)),
            tuple((watts or 300.0) * i * period_s for _ in range(devices)) if counter else None,
        )
        for i in range(n)
    ]


def test_a_frequently_updated_counter_is_valid() -> None:
    total = energy(readings(21, 0.2))
    assert total
    assert (total.how, total.valid) == ("counter", True)
    assert total.total_j == pytest.approx(1200)


def test_devices_are_summed() -> None:
    total = energy(readings(21, 0.2, devices=4))
    assert total
    assert total.total_j == pytest.approx(4800)


@pytest.mark.parametrize(("n", "period_s"), [(10, 0.2), (21, 0.02), (2, 60.0)])
def test_too_short_or_too_few_updates_is_not_valid(n: int, period_s: float) -> None:
    total = counter_energy(readings(n, period_s))
    assert total
    assert not total.valid


def test_a_constant_counter_falls_back_to_power() -> None:
    still = [Reading(reading.at_ns, reading.power_w, (5.0,)) for reading in readings(61, 0.2)]
    total = energy(still)
    assert total
    assert (total.how, total.valid) == ("integrated", True)
    assert total.total_j == pytest.approx(12 * 300.5, rel=0.01)


def test_one_still_counter_of_two_makes_the_sum_invalid() -> None:
    still = [
        Reading(reading.at_ns, (None, None), (reading.counter_j[0], 5.0))
        for reading in readings(61, 0.2)
        if reading.counter_j
    ]
    total = energy(still)
    assert total
    assert not total.valid


def test_a_second_with_ten_updates_of_the_counter_is_enough() -> None:
    totals = [counter_energy(readings(n, period_s)) for n, period_s in ((11, 0.1), (11, 0.0999), (10, 0.2))]
    assert [total and total.valid for total in totals] == [True, False, False]


@pytest.mark.parametrize("missing", [0, -1])
def test_without_a_counter_at_either_end_energy_is_integrated(missing: int) -> None:
    values = readings(61, 0.2)
    values[missing] = Reading(values[missing].at_ns, values[missing].power_w, None)
    assert counter_energy(values) is None
    total = energy(values)
    assert total
    assert (total.how, total.valid) == ("integrated", True)


def test_a_counter_that_goes_back_is_not_valid_and_never_negative() -> None:
    values = readings(61, 0.2, watts=None)
    total = energy([Reading(reading.at_ns, reading.power_w, (1000.0 - i,)) for i, reading in enumerate(values)])
    assert total
    assert (total.total_j, total.valid) == (0.0, False)


def test_a_missing_reading_of_the_counter_is_not_valid() -> None:
    values = readings(61, 0.2, watts=None)
    values[30] = Reading(values[30].at_ns, (None,), None)
    total = energy(values)
    assert total
    assert (total.how, total.valid) == ("counter", False)


def test_power_over_time_is_valid_after_ten_seconds() -> None:
    assert [
        bool(total and total.valid) for total in map(integrated_energy, (readings(50, 0.2), readings(51, 0.2)))
    ] == [
        False,
        True,
    ]


def test_a_second_between_readings_of_power_is_not_too_long() -> None:
    totals = map(integrated_energy, (readings(12, 1.0), readings(12, 1.001)))
    assert [total and total.valid for total in totals] == [True, False]


def test_constant_power_is_not_valid() -> None:
    total = energy([Reading(reading.at_ns, (300.0,), None) for reading in readings(61, 0.2)])
    assert total
    assert not total.valid
    assert total.total_j == pytest.approx(3600)


@pytest.mark.parametrize("missing", [slice(20, 21), slice(20, 30)])
def test_missing_readings_of_power_are_not_valid(missing: slice) -> None:
    values = readings(101, 0.2, counter=False)
    for reading in values[missing]:
        values[values.index(reading)] = Reading(reading.at_ns, (None,), None)
    total = energy(values)
    assert total
    assert not total.valid


def test_late_readings_of_power_are_not_valid() -> None:
    values = readings(101, 0.2, counter=False)
    del values[20:30]
    total = energy(values)
    assert total
    assert not total.valid


@pytest.mark.parametrize("values", [[], readings(20, 0.2, watts=None, counter=False), readings(1, 0.2, counter=False)])
def test_without_readings_there_is_no_energy(values: list[Reading]) -> None:
    assert energy(values) is None


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(0, 1000, allow_subnormal=False)), min_size=2, max_size=50))
def test_integrated_energy_lies_between_the_lowest_and_the_highest_power(steps: list[tuple[float, float]]) -> None:
    at_ns, values = 0, []
    for gap_s, watts in steps:
        at_ns += round(gap_s * NS_PER_S)
        values.append(Reading(at_ns, (watts,), None))
    total = integrated_energy(values)
    assert total
    seconds = (values[-1].at_ns - values[0].at_ns) / NS_PER_S
    watts = [watts for _, watts in steps]
    assert min(watts) * seconds * (1 - 1e-9) <= total.total_j <= max(watts) * seconds * (1 + 1e-9)


@given(st.lists(JOULES, min_size=2, max_size=50).map(sorted), st.floats(0, 1e5))
def test_counted_energy_is_the_difference_wherever_the_counter_began(counter: list[float], more: float) -> None:
    def of(values: list[float]) -> float:
        total = counter_energy([Reading(i * 10**8, (None,), (value,)) for i, value in enumerate(values)])
        assert total
        return total.total_j

    assert of(counter) == counter[-1] - counter[0]
    assert of([value + more for value in counter]) == pytest.approx(of(counter), abs=1e-6)
