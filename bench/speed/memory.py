"""Memory of a running server, read cheaply enough to be asked for several times a second while it is measured."""

import os
import time
from collections.abc import Iterable, Sequence

from bench.machine.nvml import Devices

FAMILY_PERIOD_S = 2.0
"""How often new members of a process tree are looked for."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pids: Iterable[int]) -> int | None:
    """Return the resident memory of processes in bytes, those that have ended left out; None if all have.

    A page that two of them share counts twice, as in ``ps``. Reads /proc/PID/statm (proc_pid_statm(5)), which the
    kernel answers from counters; smaps_rollup would be exact but walks all pages and holds the process up meanwhile.
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
    """Resident memory of a process and its descendants; call it for the bytes of now.

    Looking through all processes of a machine takes milliseconds, so each is asked for its parent only once, when it
    is new. A descendant stays one when the process between has ended.
    """

    def __init__(self, pid: int) -> None:
        """Find the family of ``pid``."""
        self._family = {pid}
        self._known: set[int] = set()
        self._next_look_s = 0.0

    def __call__(self) -> int | None:
        """Return the bytes of all of them together; None once all have ended."""
        return rss_bytes(self.pids())

    def pids(self) -> frozenset[int]:
        """Return the process and its descendants, looked for anew if the last look was some time ago."""
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
    """Return the process that started ``pid``; None if that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            # The name before it stands in brackets and may hold anything, brackets too (proc_pid_stat(5)).
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


class DeviceMemory:
    """Accelerator memory of a server; call it for the bytes of now, all its devices together."""

    def __init__(self, devices: Devices, tree: TreeMemory, baseline: Sequence[int] | None) -> None:
        """Measure the processes of ``tree``, or where NVML does not tell them apart what came after ``baseline``.

        Args:
            devices: those that the server uses.
            tree: its processes.
            baseline: ``memory_used()`` of these same devices from before the server was started.
        """
        self._devices = devices
        self._tree = tree
        self._baseline = baseline

    def __call__(self) -> int | None:
        """Return the bytes; None where the driver tells none.

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
