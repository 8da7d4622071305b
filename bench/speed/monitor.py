"""What the machine did during a trial: memory over time, clocks, energy, and how busy the measuring process itself was.

Memory and devices are read by a thread, five times a second; nothing it calls holds the interpreter for long (see
:mod:`bench.speed.memory`). The event loop's lag is measured by the loop itself.
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
"""How often memory and power are read. Chosen: slower than NVML updates them (20 to 100 ms), so each reading is new."""
STATES_EVERY = 5
"""Clocks and throttle reasons are read with every fifth sample, for they take many calls."""
LAG_PERIOD_NS = 10_000_000
"""Waking up a hundred times a second costs about 1 % of a core; twice as often, twice that."""
MAX_POINTS = 100
"""Points of memory that a trial keeps. Chosen: as many as a drawing can show."""


def thin(series: Sequence[tuple[int, int]], most: int = MAX_POINTS) -> tuple[tuple[int, int], ...]:
    """Return at most ``most`` of the points, evenly picked, with the first, the last and the highest among them.

    Args:
        series: (time, value), in order.
        most: at least 3.
    """
    if len(series) <= most:
        return tuple(series)
    highest = max(range(len(series)), key=lambda index: series[index][1])
    even = np.linspace(0, len(series) - 1, most - 1).round().astype(int).tolist()
    return tuple(series[index] for index in sorted({*even, highest}))


def client_load(lags_ns: Sequence[int], cpu_ns: int, wall_ns: int) -> ClientLoad | None:
    """Return how busy the client was; None if it was not watched long enough to see its loop wake up.

    Args:
        lags_ns: how late the loop was at moments spread evenly over the trial.
        cpu_ns: CPU time that all threads of the process took.
        wall_ns: time that passed.
    """
    if not lags_ns or wall_ns <= 0:
        return None
    p99 = int(np.quantile(np.asarray(lags_ns), 0.99, method="inverted_cdf"))
    return ClientLoad(lag_p99_ns=p99, lag_max_ns=max(lags_ns), cpu_share=cpu_ns / wall_ns)


class _Lags:
    """Watches the running event loop: how late it is, in ns, every ten milliseconds. Use as a context manager.

    A loop that was held up for 60 ms was late at six of these moments, not at one: ``ns`` says how late the loop
    would have been for something that arrived at any time. Of an idle loop it shows up to a millisecond: timers are no
    finer.
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
    """Memory, power and throttle reasons, read over and over. ``take`` is called by one thread at a time."""

    def __init__(self, memory: Callable[[], int | None], devices: Devices | None) -> None:
        self.memory: list[tuple[int, int]] = []
        self.readings: list[Reading] = []
        self.throttled: dict[int, dict[str, None]] = {}
        """By device: every reason that was seen."""
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
        """Read the devices' states, with every throttle reason seen since the beginning.

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
    """What was seen during a trial; complete once its block has been left."""

    peak_memory_bytes: int | None = None
    memory: tuple[tuple[int, int], ...] = ()
    client: ClientLoad | None = None
    devices_before: tuple[DeviceState, ...] = ()
    devices_after: tuple[DeviceState, ...] = ()
    """``throttled`` holds every reason seen during the trial, not only those at its end."""
    energy: Energy | None = None

    def fields(self) -> dict[str, Any]:
        """Return everything by the names that :class:`bench.records.record.Trial` has for it."""
        return dict(vars(self))


class Monitor:
    """Watches one server's trials."""

    def __init__(self, memory: Callable[[], int | None], devices: Devices | None = None) -> None:
        """Remember what to read.

        Args:
            memory: returns the server's memory in bytes; called from another thread; see
                :mod:`bench.speed.memory`.
            devices: the accelerators that the server uses.
        """
        self._memory = memory
        self._devices = devices

    @asynccontextmanager
    async def trial(self) -> AsyncIterator[MachineReadings]:
        """Watch what happens inside an ``async with`` block; what is read before and after it is none of its time.

        Raises:
            EngineError: a device is lost.
        """
        observed = MachineReadings()
        samples, over = _Samples(self._memory, self._devices), threading.Event()
        observed.devices_before = samples.states()
        samples.throttled.clear()
        samples.take()
        begin_ns, begin_cpu_ns = now_ns(), time.process_time_ns()
        with ThreadPoolExecutor(1, thread_name_prefix="monitor") as executor:
            sampling = executor.submit(samples.until, over)
            try:
                with _Lags() as lags:
                    yield observed
                wall_ns, cpu_ns = now_ns() - begin_ns, time.process_time_ns() - begin_cpu_ns
            finally:
                over.set()
                await asyncio.wrap_future(sampling)
        samples.take()
        observed.devices_after = samples.states()
        observed.client = client_load(lags.ns, cpu_ns, wall_ns)
        series = [(max(0, at_ns - begin_ns), used) for at_ns, used in samples.memory]
        observed.memory = thin(series)
        observed.peak_memory_bytes = max((used for _, used in series), default=None)
        observed.energy = energy(samples.readings)
