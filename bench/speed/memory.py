"""Memory of a running server, cheap enough to read several times a second during a measurement."""

import os
import time
from collections.abc import Iterable, Sequence

from bench.machine.nvml import Devices

FAMILY_PERIOD_S = 2.0
"""Interval of searches for new members of a process tree."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pids: Iterable[int]) -> int | None:
    """Return the resident memory of processes in bytes, without those that have ended; None if all have.

    A page that two processes share counts twice, as in ``ps``. Reads /proc/PID/statm (proc_pid_statm(5)), which the
    kernel answers from counters; smaps_rollup would be exact but walks all pages and blocks the process meanwhile.
    """
    pages: list[int] = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as statm:  # noqa: PTH123 - a Path costs as much as the reading
                pages.append(int(statm.read().split()[1]))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sum(pages) * PAGE_BYTES if any(pages) else None


class TreeMemory:
    """Resident memory of a process and its descendants; call it for the current number of bytes.

    Reading all processes of a machine takes milliseconds, so the parent of each is read only once, when it is new. A
    descendant remains one after the process between them has ended.
    """

    def __init__(self, pid: int) -> None:
        """Start with ``pid`` alone."""
        self._family = {pid}
        self._known: set[int] = set()
        self._next_look_s = 0.0

    def __call__(self) -> int | None:
        """Return the sum of their bytes; None once all have ended."""
        return rss_bytes(self.pids())

    def pids(self) -> frozenset[int]:
        """Return the process and its descendants, searching for new ones every `FAMILY_PERIOD_S`."""
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            self._look()
            self._next_look_s = now_s + FAMILY_PERIOD_S
        return frozenset(self._family)

    def _look(self) -> None:
        running = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
        parents = {pid: _parent(pid) for pid in running - self._known}
        self._known = running
        while children := {pid for pid, parent in parents.items() if parent in self._family} - self._family:
            self._family |= children
        self._family &= running


def _parent(pid: int) -> int | None:
    """Return the parent of ``pid``; None if ``pid`` has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            # The preceding name is in brackets and may contain anything, even brackets (proc_pid_stat(5)).
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


class DeviceMemory:
    """Accelerator memory of a server; call it for the current number of bytes on all its devices."""

    def __init__(self, devices: Devices, tree: TreeMemory, baseline: Sequence[int] | None) -> None:
        """Measure the processes of ``tree``, or the increase over ``baseline`` where NVML does not list processes.

        Args:
            devices: the devices that the server uses.
            tree: its processes.
            baseline: ``memory_used()`` of these devices before the server was started.
        """
        self._devices = devices
        self._tree = tree
        self._baseline = baseline

    def __call__(self) -> int | None:
        """Return the number of bytes; None where the driver does not report it.

        Raises:
            EngineError: a device is lost.
        """
        own = self._devices.process_memory(self._tree.pids())
        if own is not None:
            return own
        used = self._devices.memory_used()
        if used is None or self._baseline is None:
            return None
        return max(0, sum(now - before for now, before in zip(used, self._baseline, strict=True)))
