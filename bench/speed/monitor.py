"""Monitor the machine during a trial: memory over time, clocks, energy, and the load of the measuring process itself.

A thread reads memory and devices five times a second; none of its calls holds the interpreter lock for long (see
:mod:`bench.speed.memory`). The event loop measures its own lag.
"""

import asyncio
import threading
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from bench.machine.nvml import Devices
from bench.records.record import ClientLoad, DeviceState, Energy
from bench.speed.client import now_ns
from bench.speed.energy import NS_PER_S, Reading, energy
from bench.speed.memory import DeviceMemory, TreeMemory

__all__ = ["DeviceMemory", "MachineReadings", "Monitor", "TreeMemory"]

SAMPLE_PERIOD_S = 0.2
"""Interval of memory and power readings. Chosen: longer than NVML's updates (20 to 100 ms), so each reading is new."""
STATES_EVERY = 5
"""Clocks and throttle reasons are read with every fifth sample, because they take many calls."""
LAG_PERIOD_NS = 10_000_000
"""Interval of lag measurements: waking up a hundred times a second costs about 1 % of a core."""
MAX_POINTS = 100
"""Most memory readings that a trial keeps. Chosen: as many as a chart can show."""


def thin(series: Sequence[tuple[int, int]], most: int = MAX_POINTS) -> tuple[tuple[int, int], ...]:
    """Return at most ``most`` of the points, evenly spaced, always with the first, the last and the highest.

    Args:
        series: (time, value), in chronological order.
        most: at least 3.
    """
    if len(series) <= most:
        return tuple(series)
    highest = max(range(len(series)), key=lambda index: series[index][1])
    even = np.linspace(0, len(series) - 1, most - 1).round().astype(int).tolist()
    return tuple(series[index] for index in sorted({*even, highest}))


def client_load(lags_ns: Sequence[int], cpu_ns: int, wall_ns: int) -> ClientLoad | None:
    """Return how busy the client was; None if the trial was too short for its loop to wake up.

    Args:
        lags_ns: lag of the loop at moments spread evenly over the trial.
        cpu_ns: CPU time of all threads of the process.
        wall_ns: duration of the trial.
    """
    if not lags_ns or wall_ns <= 0:
        return None
    p99 = int(np.quantile(np.asarray(lags_ns), 0.99, method="inverted_cdf"))
    return ClientLoad(lag_p99_ns=p99, lag_max_ns=max(lags_ns), cpu_share=cpu_ns / wall_ns)


class _Lags:
    """Measures the lag of the running event loop in ns every ten milliseconds. Use as a context manager.

    A loop that was blocked for 60 ms was late at six of these moments, not at one: ``ns`` holds the lag for data that
    arrives at any time. Even an idle loop shows up to a millisecond, the resolution of its timers.
    """

    def __init__(self) -> None:
        self.ns = array("q")
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._due_ns = now_ns() + LAG_PERIOD_NS
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._note()

    def _wait(self) -> None:
        self._timer = self._loop.call_later((self._due_ns - now_ns()) / NS_PER_S, self._wake)

    def _wake(self) -> None:
        self._note()
        self._wait()

    def _note(self) -> None:
        at_ns = now_ns()
        while self._due_ns <= at_ns:
            self.ns.append(at_ns - self._due_ns)
            self._due_ns += LAG_PERIOD_NS


class _Samples:
    """Repeated readings of memory, power and throttle reasons. Only one thread at a time may call ``take``."""

    def __init__(self, memory: Callable[[], int | None], devices: Devices | None) -> None:
        self.memory: list[tuple[int, int]] = []
        self.readings: list[Reading] = []
        self.throttled: dict[int, dict[str, None]] = {}
        """Every throttle reason seen, by device."""
        self._memory = memory
        self._devices = devices

    def take(self) -> None:
        """Read memory, power and the energy counters.

        Raises:
            EngineError: a device is lost.
        """
        used = self._memory()
        if used is not None:
            self.memory.append((now_ns(), used))
        if self._devices:
            counter = self._devices.energy_counter_j()
            power = tuple(self._devices.power_w())
            self.readings.append(Reading(now_ns(), power, None if counter is None else tuple(counter)))

    def states(self) -> tuple[DeviceState, ...]:
        """Read the devices' states, with every throttle reason seen since the start.

        Raises:
            EngineError: a device is lost.
        """
        states = self._devices.states() if self._devices else ()
        for state in states:
            self.throttled.setdefault(state.index, {}).update(dict.fromkeys(state.throttled))
        return tuple(state.model_copy(update={"throttled": tuple(self.throttled[state.index])}) for state in states)

    def until(self, over: threading.Event) -> None:
        """Take samples until ``over`` is set."""
        taken = 0
        while not over.wait(SAMPLE_PERIOD_S):
            self.take()
            if taken % STATES_EVERY == 0:
                self.states()
            taken += 1


@dataclass
class MachineReadings:
    """Readings of a trial; complete once its block has been left."""

    peak_memory_bytes: int | None = None
    memory: tuple[tuple[int, int], ...] = ()
    client: ClientLoad | None = None
    devices_before: tuple[DeviceState, ...] = ()
    devices_after: tuple[DeviceState, ...] = ()
    """``throttled`` has every reason seen during the trial, not only those at its end."""
    energy: Energy | None = None

    def fields(self) -> dict[str, Any]:
        """Return all readings under the field names of :class:`bench.records.record.Trial`."""
        return dict(vars(self))


class Monitor:
    """Monitors one server's trials."""

    def __init__(self, memory: Callable[[], int | None], devices: Devices | None = None) -> None:
        """Set what to read.

        Args:
            memory: returns the server's memory in bytes (see :mod:`bench.speed.memory`); called from another thread.
            devices: the accelerators that the server uses.
        """
        self._memory = memory
        self._devices = devices

    @asynccontextmanager
    async def trial(self) -> AsyncIterator[MachineReadings]:
        """Monitor an ``async with`` block; the readings before and after it are not part of its time.

        Raises:
            EngineError: a device is lost.
        """
        readings = MachineReadings()
        samples, over = _Samples(self._memory, self._devices), threading.Event()
        readings.devices_before = samples.states()
        samples.throttled.clear()
        samples.take()
        begin_ns, begin_cpu_ns = now_ns(), time.process_time_ns()
        with ThreadPoolExecutor(1, thread_name_prefix="monitor") as executor:
            sampling = executor.submit(samples.until, over)
            try:
                with _Lags() as lags:
                    yield readings
                wall_ns, cpu_ns = now_ns() - begin_ns, time.process_time_ns() - begin_cpu_ns
            finally:
                over.set()
                await asyncio.wrap_future(sampling)
        samples.take()
        readings.devices_after = samples.states()
        readings.client = client_load(lags.ns, cpu_ns, wall_ns)
        series = [(max(0, at_ns - begin_ns), used) for at_ns, used in samples.memory]
        readings.memory = thin(series)
        readings.peak_memory_bytes = max((used for _, used in series), default=None)
        readings.energy = energy(samples.readings)
