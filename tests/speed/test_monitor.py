"""The monitor of a trial: real processes and a real event loop; devices are fake."""

import asyncio
import time

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import EngineError
from bench.records.record import Trial
from bench.speed.monitor import SAMPLE_PERIOD_S, MachineReadings, Monitor, client_load, thin
from tests.support.fake_nvml import Card, opened

pytestmark = pytest.mark.alone


def watch(monitor: Monitor, seconds: float = 0.0, block_s: float = 0.0) -> MachineReadings:
    """Monitor a trial that waits, then blocks the event loop."""

    async def trial() -> MachineReadings:
        async with monitor.trial() as observed:
            await asyncio.sleep(seconds)
            time.sleep(block_s)
        return observed

    return asyncio.run(trial())


def test_the_observed_fields_are_those_of_a_trial() -> None:
    fields = watch(Monitor(lambda: 7), seconds=0.03).fields()
    trial = Trial(requests=(), started_at="2026-11-24T02:03:11+00:00", **fields)
    assert trial.model_dump(include=set(fields)) == {
        key: value.model_dump() if hasattr(value, "model_dump") else value for key, value in fields.items()
    }
    assert (trial.peak_memory_bytes, trial.devices_before, trial.devices_after, trial.energy) == (7, (), (), None)


def test_the_first_and_the_last_memory_are_in_the_series_and_the_highest_is_the_peak() -> None:
    values = iter(range(100, 10_000))
    observation = watch(Monitor(lambda: next(values)), seconds=SAMPLE_PERIOD_S * 3.5)
    times, memory = zip(*observation.memory, strict=True)
    assert memory == tuple(range(100, 100 + len(memory)))
    assert len(memory) >= 3
    assert observation.peak_memory_bytes == memory[-1]
    assert times[0] == 0
    assert list(times) == sorted(times)


def test_unknown_memory_leaves_no_series() -> None:
    observation = watch(Monitor(lambda: None))
    assert observation.memory == ()
    assert observation.peak_memory_bytes is None


def test_a_loop_that_was_held_up_was_late() -> None:
    observation = watch(Monitor(lambda: 1), seconds=0.05, block_s=0.3)
    assert observation.client
    assert observation.client.lag_max_ns > 0.2e9
    assert observation.client.lag_p99_ns <= observation.client.lag_max_ns


def test_lag_counts_every_moment_of_a_blocked_loop() -> None:
    """A block of half the trial delays half of all moments, not one of many."""
    observation = watch(Monitor(lambda: 1), seconds=0.3, block_s=0.3)
    assert observation.client
    assert observation.client.lag_p99_ns > 0.2e9


def test_work_shows_in_the_cpu_share() -> None:
    async def trial() -> MachineReadings:
        async with Monitor(lambda: 1).trial() as observed:
            end = time.thread_time() + 0.3
            while time.thread_time() < end:
                sum(range(1000))
        return observed

    busy, idle = asyncio.run(trial()).client, watch(Monitor(lambda: 1), seconds=0.3).client
    assert busy
    assert idle
    assert busy.cpu_share > 2 * idle.cpu_share


def test_a_trial_too_short_to_see_the_loop_wake_up_has_no_client_load() -> None:
    assert client_load([], 5, 10) is None


@given(st.lists(st.integers(0, 10**10), min_size=1), st.integers(0, 10**12), st.integers(1, 10**12))
def test_the_lag_is_one_that_was_seen(lags: list[int], cpu_ns: int, wall_ns: int) -> None:
    load = client_load(lags, cpu_ns, wall_ns)
    assert load
    assert load.lag_p99_ns in lags
    assert load.lag_max_ns == max(lags)
    assert sum(lag > load.lag_p99_ns for lag in lags) <= 0.01 * len(lags)
    assert load.cpu_share == cpu_ns / wall_ns


@given(st.lists(st.integers(0, 10**12), max_size=1000), st.integers(3, 200))
def test_thinning_keeps_the_first_the_last_and_the_peak(values: list[int], most: int) -> None:
    series = list(enumerate(values))
    thinned = thin(series, most)
    assert len(thinned) <= most
    assert list(thinned) == sorted(thinned)
    assert set(thinned) <= set(series)
    if series:
        assert thinned[0] == series[0]
        assert thinned[-1] == series[-1]
        assert max(value for _, value in thinned) == max(values)
    if len(series) <= most:
        assert list(thinned) == series


def test_an_error_of_the_block_is_not_hidden_and_nothing_is_left_running() -> None:
    async def trial() -> None:
        async with Monitor(lambda: 1).trial():
            raise EngineError("the server died")

    with pytest.raises(EngineError, match="the server died"):
        asyncio.run(trial())


def test_cancelling_a_trial_stops_the_sampling() -> None:
    taken: list[int] = []

    async def trial() -> None:
        async with Monitor(lambda: taken.append(1) or 1).trial():  # type: ignore[func-returns-value]
            await asyncio.sleep(60)

    async def main() -> int:
        task = asyncio.create_task(trial())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(taken)

    before = asyncio.run(main())
    time.sleep(2 * SAMPLE_PERIOD_S)
    assert len(taken) == before


@pytest.mark.usefixtures("_all_visible")
def test_energy_is_that_of_the_counters_of_all_devices() -> None:
    def counter(step: int) -> Card:
        ticks = iter(range(1000, 10**9, step))
        return Card(millijoules=lambda: next(ticks))

    first, other = counter(50_000), counter(30_000)
    other.index = 1
    observation = watch(Monitor(lambda: 1, opened(first, other)), seconds=SAMPLE_PERIOD_S * 2.5)
    assert observation.energy
    assert observation.energy.how == "counter"
    assert observation.energy.total_j == pytest.approx(80 * (len(observation.memory) - 1))
    assert not observation.energy.valid  # too short


@pytest.mark.usefixtures("_all_visible")
def test_throttling_in_the_middle_of_a_trial_is_not_missed() -> None:
    card = Card()

    async def trial() -> MachineReadings:
        async with Monitor(lambda: 1, opened(card)).trial() as observed:
            card.reasons = pynvml.nvmlClocksEventReasonHwSlowdown
            await asyncio.sleep(SAMPLE_PERIOD_S * 2.5)
            card.reasons = pynvml.nvmlClocksEventReasonSwPowerCap
        return observed

    observation = asyncio.run(trial())
    assert [state.throttled for state in observation.devices_before] == [()]
    assert [state.throttled for state in observation.devices_after] == [("HwSlowdown", "SwPowerCap")]


@pytest.mark.usefixtures("_all_visible")
def test_what_held_the_clocks_down_before_a_trial_is_not_counted_as_during_it() -> None:
    card = Card(reasons=pynvml.nvmlClocksEventReasonSwPowerCap)

    async def trial() -> MachineReadings:
        async with Monitor(lambda: 1, opened(card)).trial() as observed:
            card.reasons = 0
        return observed

    observation = asyncio.run(trial())
    assert [state.throttled for state in observation.devices_before] == [("SwPowerCap",)]
    assert [state.throttled for state in observation.devices_after] == [()]


@pytest.mark.usefixtures("_all_visible")
def test_a_device_lost_during_a_trial_is_reported_at_its_end() -> None:
    card = Card()

    async def trial() -> None:
        async with Monitor(lambda: 1, opened(card)).trial():
            card.error = pynvml.NVML_ERROR_GPU_IS_LOST
            await asyncio.sleep(SAMPLE_PERIOD_S * 1.5)

    with pytest.raises(EngineError, match="GPU 0"):
        asyncio.run(trial())
