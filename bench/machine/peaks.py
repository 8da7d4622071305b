"""This machine's device and its peak rates: accelerators are looked up in a table by name, CPUs are measured."""

import contextlib
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import PositiveFloat

from bench.errors import ConfigError, EngineError
from bench.files import write_atomic
from bench.machine.environment import cpu_name
from bench.machine.nvml import Devices
from bench.paths import cache_dir
from bench.records.record import Device
from quantize.clock import utc_date
from quantize.key import Frozen, canonical_json, sha256_text
from quantize.search_path import search_path

TABLE = Path(__file__).resolve().parent / "devices.toml"
PROBE = Path(__file__).resolve().parent / "probe.py"
PROBE_TIMEOUT_S = 300
"""Longest time for the probe, which takes some 10 s on an idle machine."""


class Entry(Frozen):
    """One device of ``devices.toml``, which explains the fields."""

    name: str
    matches: str
    bandwidth_tb_per_s: PositiveFloat
    memory_gb: PositiveFloat
    tflops: dict[str, PositiveFloat]
    """Peak rates by number type, in the unit of datasheets, 10^12 operations per second."""
    source: str

    def device(self) -> Device:
        """Return the entry in units without prefixes."""
        return Device(
            name=self.name,
            bandwidth_bytes_per_s=self.bandwidth_tb_per_s * 1e12,
            flops_per_s={kind: value * 1e12 for kind, value in self.tflops.items()},
            memory_bytes=round(self.memory_gb * 1e9),
            source=self.source,
            measured=False,
        )


def own_table() -> Path:
    """Return the file for a user's own entries, which may not exist."""
    return cache_dir() / TABLE.name


def table() -> list[Entry]:
    """Return all entries, the user's own first.

    Raises:
        ConfigError: a file is invalid.
    """
    entries = []
    for file in (own_table(), TABLE):
        if file.exists():
            try:
                entries += [Entry.model_validate(entry) for entry in tomllib.loads(file.read_text())["device"]]
            except (KeyError, ValueError) as error:
                raise ConfigError(f"{file}: {str(error).splitlines()[0]}; {TABLE} shows the format") from error
    return entries


def lookup(name: str) -> Device | None:
    """Return the device that the driver calls ``name``, e.g. ``NVIDIA H100 80GB HBM3``; None if it is unknown.

    A part of a card (MIG) is unknown: it has a share of the card's bandwidth that the table does not list.
    """
    if " MIG " in name:
        return None
    return next((entry.device() for entry in table() if re.search(entry.matches, name)), None)


def default_threads() -> int:
    """Return the default number of threads of a server: ``OMP_NUM_THREADS``, or else one per core."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _accelerators() -> list[str]:
    """Return the distinct names of the accelerators that a server on this machine may use."""
    devices = Devices.here()
    if devices is None:
        return []
    with contextlib.closing(devices):
        return sorted(set(devices.names))


def probe(interpreter: str, threads: int) -> Device:
    """Measure the peak rates of this machine's CPU with an interpreter's torch or numpy.

    Raises:
        EngineError: the interpreter has neither, or the probe failed.
    """
    # -P keeps the script's folder off the path: its modules could shadow others of the same name.
    argv = [interpreter, "-P", str(PROBE), "--threads", str(threads)]
    env = {**os.environ, **search_path(interpreter), "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, env=env)
    except subprocess.TimeoutExpired:
        raise EngineError(f"measuring the CPU took longer than {PROBE_TIMEOUT_S} s: the machine is busy") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"the CPU cannot be measured: {last} ({' '.join(argv)})")
    measured = json.loads(done.stdout)
    by_size = tuple((int(size), float(speed)) for size, speed in measured["bandwidth_by_size"])
    return Device(
        name=f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}",
        bandwidth_bytes_per_s=by_size[-1][1],
        bandwidth_by_size=by_size,
        flops_per_s=measured["flops_per_s"],
        memory_bytes=psutil.virtual_memory().total,
        source=f"measured with {measured['how']} on {utc_date()}",
        measured=True,
    )


def higher(before: Device, after: Device) -> Device:
    """Merge two measurements of one device: take the higher of each figure, because something slowed the other."""
    earlier = dict(before.bandwidth_by_size)
    by_size = tuple((size, max(speed, earlier.get(size, 0.0))) for size, speed in after.bandwidth_by_size)
    kinds = [*before.flops_per_s, *(kind for kind in after.flops_per_s if kind not in before.flops_per_s)]
    return after.model_copy(
        update={
            "bandwidth_bytes_per_s": max(before.bandwidth_bytes_per_s, after.bandwidth_bytes_per_s),
            "bandwidth_by_size": by_size,
            "flops_per_s": {k: max(d.flops_per_s.get(k, 0.0) for d in (before, after)) for k in kinds},
        }
    )


def _torch_version(interpreter: str) -> str:
    """Return the version of an interpreter's torch, without importing it; empty if it has none."""
    code = "import importlib.metadata as m; print(*(d.version for d in m.distributions(name='torch')))"
    done = subprocess.run([interpreter, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def kept_device(*, cpu: bool = False) -> Device | None:
    """Return this machine's device without measuring: from the table, or as an earlier run measured it.

    Args:
        cpu: return the CPU even if there are accelerators.
    """
    names = [] if cpu else _accelerators()
    if names:
        return lookup(names[0]) if len(names) == 1 else None
    prefix = f"{cpu_name()}, "
    for file in sorted((cache_dir() / "devices").glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        device = Device.model_validate_json(file.read_bytes())
        if device.name.startswith(prefix):
            return device
    return None


def _cpu(interpreter: str, threads: int, *, again: bool) -> Device:
    key = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "torch": _torch_version(interpreter),
        "probe": sha256_text(PROBE.read_text()),
    }
    file = cache_dir() / "devices" / f"{sha256_text(canonical_json(key))[:16]}.json"
    earlier = Device.model_validate_json(file.read_bytes()) if file.exists() else None
    if earlier is not None and not again:
        return earlier
    measured = probe(interpreter, threads)
    device = higher(earlier, measured) if earlier is not None else measured
    write_atomic(file, device.model_dump_json(indent=1))
    return device


def device_here(
    interpreter: str,
    threads: int | None = None,
    *,
    cpu: bool = False,
    again: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Device | None:
    """Return the device that a server on this machine computes on; None if it is unknown.

    An accelerator is looked up in the table by its name. Without one, the CPU is measured once per kind of CPU, number
    of cores and threads, and version of torch; the result is cached.

    Args:
        interpreter: the engine's Python, which measures the CPU.
        threads: number of threads that the server computes with; None for :func:`default_threads`.
        cpu: whether the server computes on the CPU even if there are accelerators.
        again: measure the CPU again and keep the higher figures, because it may have been busy the first time.
        say: receives one line that says why the device is unknown.

    Raises:
        ConfigError: ``devices.toml`` cannot be read.
    """
    names = [] if cpu else _accelerators()
    if len(names) > 1:
        say(f"the GPUs here differ ({', '.join(names)}): no physical limit; choose some with CUDA_VISIBLE_DEVICES")
        return None
    if names:
        accelerator = lookup(names[0])
        if accelerator is None:
            say(f"'{names[0]}' is not in the table of devices: no physical limit; add it to {own_table()}")
        return accelerator
    try:
        return _cpu(interpreter, threads or default_threads(), again=again)
    except EngineError as error:
        say(f"no physical limit: {error}")
        return None
