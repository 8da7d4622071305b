"""Lease the devices of a machine to one run at a time, so that no run spoils the times of another.

A lease is a locked file below the cache folder; the kernel lets go of it however its process ends. On a machine without
accelerators there is one lease for the whole machine: two servers on one CPU would slow each other down. What Ray or
Slurm has given a job already stands in CUDA_VISIBLE_DEVICES; of that, a job takes as many as its server is spread over.
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
"""How often a waiting run looks for free devices. Chosen: short next to the minutes of a run."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
MACHINE = "cpu"


def folder() -> Path:
    """Return where this machine's leases lie; the cache folder may be shared by several machines."""
    return cache_dir() / "leases" / socket.gethostname()


def visible() -> list[str]:
    """Return the accelerators that this process may use, as CUDA_VISIBLE_DEVICES names them; none on a CPU machine."""
    devices = Devices.here()
    if devices is None:
        return []
    with contextlib.closing(devices):
        count = len(devices.names)
    asked = os.environ.get(VISIBLE)
    return [entry.strip() for entry in asked.split(",")][:count] if asked else [str(index) for index in range(count)]


def _try(name: str) -> IO[str] | None:
    """Lock one lease, if nobody holds it."""
    file = folder() / f"{name.replace('/', '-')}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return locks.hold(file)
    except locks.HeldError:
        return None


def _take(entries: Sequence[str], count: int) -> list[tuple[str, IO[str]]] | None:
    """Lock ``count`` of the entries, or none of them."""
    got: list[tuple[str, IO[str]]] = []
    for entry in entries:
        held = _try(entry)
        if held is not None:
            got.append((entry, held))
        if len(got) == count:
            return got
    for _, held in got:
        held.close()
    return None


@contextlib.contextmanager
def lease_devices(count: int, *, on_cpu: bool, on_wait: Callable[[], None]) -> Iterator[tuple[str, ...]]:
    """Hold devices for the duration of a ``with`` block; CUDA_VISIBLE_DEVICES names them, for the server to inherit.

    Args:
        count: accelerators that are wanted. More than there are means all of them: the server will say what is missing.
        on_cpu: the server computes on the CPU, whatever else is here.
        on_wait: called every second while others hold what is wanted.

    Yields:
        The entries of CUDA_VISIBLE_DEVICES that are held; nothing on a CPU.
    """
    entries = [] if on_cpu else visible()
    wanted = entries or [MACHINE]
    while (got := _take(wanted, min(count, len(wanted)))) is None:
        on_wait()
        time.sleep(WAIT_POLL_S)
    before = os.environ.get(VISIBLE)
    names = tuple(name for name, _ in got) if entries else ()
    if names and len(entries) > len(names):
        os.environ[VISIBLE] = ",".join(names)
    try:
        yield names
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before
        for _, held in got:
            held.close()
