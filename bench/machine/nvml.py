"""Read what NVIDIA's driver reports about accelerators (NVML): clocks, temperature, power, memory, energy, throttling.

A reading that a device or its driver does not support is None. A device that is lost or needs a reset is an error:
measurements from before its failure cannot be separated from those during it.

Source of names and units: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Self

import pynvml

from bench.errors import EngineError
from bench.records.record import DeviceState

MILLI = 1e-3
"""NVML reports power in milliwatts and energy in millijoules."""
REASON = "nvmlClocksEventReason"
"""Prefix of the names of NVML's throttle reasons."""
NOT_THROTTLED = ("None", "All", "GpuIdle", "UserDefinedClocks")
"""No reason, the mask of all reasons, an idle GPU, and an older name of ApplicationsClocksSetting."""


@dataclass(frozen=True)
class _Device:
    """One accelerator that CUDA would use."""

    index: int
    """Number of the card in nvidia-smi."""
    name: str
    handle: Any
    """NVML handle of the device itself, for its memory and processes."""
    card: Any
    """NVML handle of the entire card, for clocks and temperature; not ``handle`` for a part of a card (MIG)."""
    is_card: bool
    """Whether the device is an entire card; only then are power and energy its own."""


def _reasons(nvml: Any) -> dict[str, int]:
    """Return {NVML's name: bit} of the reasons that lower clocks."""
    names = {name.removeprefix(REASON): bit for name, bit in vars(nvml).items() if name.startswith(REASON)}
    return {name: bit for name, bit in names.items() if name not in NOT_THROTTLED}


def _find(nvml: Any, entry: str) -> Any | None:
    """Return the handle of one entry of CUDA_VISIBLE_DEVICES; None if there is no such device.

    An entry is a card's index, its UUID or a prefix of it, or the UUID of a part of a card (MIG).
    """
    try:
        if entry.isdigit():
            return nvml.nvmlDeviceGetHandleByIndex(int(entry))
        if entry.startswith("MIG-"):
            return nvml.nvmlDeviceGetHandleByUUID(entry)
        if entry.startswith("GPU-"):
            cards = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return next((card for card in cards if nvml.nvmlDeviceGetUUID(card).startswith(entry)), None)
    except nvml.NVMLError:
        return None
    return None


def _visible(nvml: Any) -> list[_Device]:
    """Return the devices that CUDA would use, in its order; like CUDA, stop at the first unknown entry."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [str(index) for index in range(nvml.nvmlDeviceGetCount())] if listed is None else listed.split(",")
    devices: list[_Device] = []
    for entry in entries:
        handle = _find(nvml, entry.strip())
        if handle is None:
            break
        part = entry.strip().startswith("MIG-")
        card = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if part else handle
        devices.append(_Device(nvml.nvmlDeviceGetIndex(card), nvml.nvmlDeviceGetName(handle), handle, card, not part))
    return devices


class Devices:
    """The accelerators of this machine that a server may use. Open with :meth:`here`, close with :meth:`close`.

    Cards are numbered in PCI order. CUDA numbers cards of different models by speed unless
    CUDA_DEVICE_ORDER=PCI_BUS_ID is set; for cards of one model, the two orders are the same.
    """

    def __init__(self, devices: list[_Device], nvml: Any) -> None:
        """Use :meth:`here`."""
        self._devices = devices
        self._nvml = nvml
        self._reasons = _reasons(nvml)

    @classmethod
    def here(cls, count: int | None = None, *, nvml: Any = pynvml) -> Self | None:
        """Open the devices that CUDA_VISIBLE_DEVICES allows; None without a driver or a device.

        Args:
            count: open only the first ``count`` devices, those that the server is split over.
            nvml: the module ``pynvml``, or a replacement for it.
        """
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        try:
            devices = _visible(nvml)[:count]
        except nvml.NVMLError:
            devices = []
        if not devices:
            nvml.nvmlShutdown()
            return None
        return cls(devices, nvml)

    def close(self) -> None:
        """Release the driver; nothing can be read afterwards."""
        self._nvml.nvmlShutdown()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices in NVML, e.g. ``NVIDIA H20``."""
        return tuple(device.name for device in self._devices)

    def states(self) -> tuple[DeviceState, ...]:
        """Return the current clocks, temperature, power, memory and throttle reasons of every device.

        Raises:
            EngineError: a device is lost.
        """
        return tuple(self._state(device) for device in self._devices)

    def memory_used(self) -> list[int] | None:
        """Return the memory in use on every device by any process, in bytes; None unless all of them report it.

        It does not include the driver's own share.

        Raises:
            EngineError: a device is lost.
        """
        memories = self._memories()
        return memories and [memory.used for memory in memories]

    def memory_total(self) -> list[int] | None:
        """Return the total memory of every device, in bytes; None unless all of them report it.

        Raises:
            EngineError: a device is lost.
        """
        memories = self._memories()
        return memories and [memory.total for memory in memories]

    def process_memory(self, pids: Collection[int]) -> int | None:
        """Return the memory that processes use, summed over all devices, in bytes.

        None where NVML does not report it: it lists none of the processes (in a container it lists the host's process
        ids), or lists one without its memory.

        Args:
            pids: process ids.

        Raises:
            EngineError: a device is lost.
        """
        used_bytes: list[Any] = []
        for device in self._devices:
            listed = self._read(device, self._nvml.nvmlDeviceGetComputeRunningProcesses, device.handle)
            used_bytes += [process.usedGpuMemory for process in listed or () if process.pid in pids]
        return None if not used_bytes or None in used_bytes else sum(used_bytes)

    def power_w(self) -> list[float | None]:
        """Return the power of every device in watts.

        From Ampere on this is the average over the last second, except on A100 and A30, which report the current power.

        Raises:
            EngineError: a device is lost.
        """
        return [self._power(device) for device in self._devices]

    def energy_counter_j(self) -> list[float] | None:
        """Return the energy used by every device since its driver was loaded, in joules; None unless all report it.

        Raises:
            EngineError: a device is lost.
        """
        read_energy = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        counters_j: list[float] = []
        for device in self._devices:
            millijoules = self._read(device, read_energy, device.card) if device.is_card else None
            if millijoules is None:
                return None
            counters_j.append(millijoules * MILLI)
        return counters_j

    def utilization(self) -> list[int | None]:
        """Return the share of the last sample period in which every device ran a kernel, in percent.

        Raises:
            EngineError: a device is lost.
        """
        read_rates = self._nvml.nvmlDeviceGetUtilizationRates
        rates = [self._read(device, read_rates, device.handle) for device in self._devices]
        return [None if rate is None else rate.gpu for rate in rates]

    def busy(self) -> bool:
        """Return whether any device ran a kernel in its last sample period, up to a second long.

        Also True if a device does not report it, because no process may be ended on a guess. A lost device is idle.
        """
        try:
            return any(share is None or share > 0 for share in self.utilization())
        except EngineError:
            return False

    def _state(self, device: _Device) -> DeviceState:
        nvml = self._nvml
        bits = self._read(device, nvml.nvmlDeviceGetCurrentClocksEventReasons, device.card) or 0
        memory = self._memory(device)
        return DeviceState(
            index=device.index,
            sm_clock_mhz=self._read(device, nvml.nvmlDeviceGetClockInfo, device.card, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._read(device, nvml.nvmlDeviceGetClockInfo, device.card, nvml.NVML_CLOCK_MEM),
            temperature_celsius=self._read(
                device, nvml.nvmlDeviceGetTemperature, device.card, nvml.NVML_TEMPERATURE_GPU
            ),
            power_w=self._power(device),
            memory_used_bytes=None if memory is None else memory.used,
            throttled=tuple(name for name, bit in self._reasons.items() if bits & bit),
        )

    def _power(self, device: _Device) -> float | None:
        milliwatts = self._read(device, self._nvml.nvmlDeviceGetPowerUsage, device.card) if device.is_card else None
        return None if milliwatts is None else milliwatts * MILLI

    def _memories(self) -> list[Any] | None:
        """Return NVML's memory information of every device; None unless all of them report it."""
        memories = [memory for device in self._devices if (memory := self._memory(device)) is not None]
        return memories if len(memories) == len(self._devices) else None

    def _memory(self, device: _Device) -> Any | None:
        # Like nvidia-smi, version 2 excludes the driver's own share from ``used``.
        return self._read(device, self._nvml.nvmlDeviceGetMemoryInfo, device.handle, self._nvml.nvmlMemory_v2)

    def _read(self, device: _Device, function: Callable[..., Any], *arguments: Any) -> Any | None:
        """Return the answer of one of NVML's functions; None if it has none for this device.

        Raises:
            EngineError: the device is lost or needs a reset.
        """
        try:
            return function(*arguments)
        except (self._nvml.NVMLError_GpuIsLost, self._nvml.NVMLError_ResetRequired) as error:
            raise EngineError(
                f"GPU {device.index} ({device.name}) can no longer be used: NVML says '{error}'; look for Xid in "
                f"`dmesg`, then reset it (`nvidia-smi --gpu-reset -i {device.index}`) or restart the machine"
            ) from error
        except self._nvml.NVMLError:
            return None
