"""Lease the devices of a machine to one run at a time, so that no run disturbs the measurements of another.

A lease is a locked file in the cache folder; the kernel releases it however its process ends. A machine without
accelerators has a single lease, because two servers on one CPU would slow each other down. Ray and Slurm list the
devices of a job in CUDA_VISIBLE_DEVICES; a run leases as many of these as its server is split over.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from bench.machine.nvml import Devices
from bench.paths import cache_dir
from quantize import locks

WAIT_POLL_S = 1.0
"""Interval at which a waiting run checks for free devices. Chosen: short compared with the minutes of a run."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
MACHINE = "cpu"


def folder() -> Path:
    """Return the folder of this machine's leases; several machines may share a cache folder."""
    return cache_dir() / "leases" / socket.gethostname()


def visible() -> list[str]:
    """Return the accelerators that this process may use, as named in CUDA_VISIBLE_DEVICES; empty without any."""
    devices = Devices.here()
    if devices is None:
        return []
    with contextlib.closing(devices):
        count = len(devices.names)
    listed = os.environ.get(VISIBLE)
    return [entry.strip() for entry in listed.split(",")][:count] if listed else [str(index) for index in range(count)]


def _try(name: str) -> IO[str] | None:
    """Lock one lease; return None if another process holds it."""
    file = folder() / f"{name.replace('/', '-')}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return locks.hold(file)
    except locks.HeldError:
        return None


def _take(entries: Sequence[str], count: int) -> list[tuple[str, IO[str]]] | None:
    """Lock ``count`` of the entries, or none of them."""
    leases: list[tuple[str, IO[str]]] = []
    for entry in entries:
        lock = _try(entry)
        if lock is not None:
            leases.append((entry, lock))
        if len(leases) == count:
            return leases
    for _, lock in leases:
        lock.close()
    return None


@contextlib.contextmanager
def lease_devices(count: int, *, on_cpu: bool, on_wait: Callable[[], None]) -> Iterator[tuple[str, ...]]:
    """Hold devices for the duration of a ``with`` block and name them in CUDA_VISIBLE_DEVICES for the server.

    Args:
        count: number of accelerators. If there are fewer, all are leased, and the server reports what is missing.
        on_cpu: whether the server computes on the CPU, even if there are accelerators.
        on_wait: called every second while other runs hold the devices.

    Yields:
        The leased entries of CUDA_VISIBLE_DEVICES; empty on a CPU.
    """
    entries = [] if on_cpu else visible()
    wanted = entries or [MACHINE]
    while (leases := _take(wanted, min(count, len(wanted)))) is None:
        on_wait()
        time.sleep(WAIT_POLL_S)
    before = os.environ.get(VISIBLE)
    names = tuple(name for name, _ in leases) if entries else ()
    if names and len(entries) > len(names):
        os.environ[VISIBLE] = ",".join(names)
    try:
        yield names
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
        for _, lock in leases:
            lock.close()
