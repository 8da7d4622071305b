"""Read what NVIDIA's driver reports of the accelerators (NVML): clocks, temperature, power, memory, energy, throttling.

A reading that a device or its driver does not give is None. A device that is lost or needs a reset is an error: what
was measured on it cannot be told apart from what it did while it died.

Source of names and units: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import pynvml

from bench.errors import EngineError
from bench.records.record import DeviceState

MILLI = 1e-3
"""NVML gives power in milliwatts and energy in millijoules."""
REASON = "nvmlClocksEventReason"
"""What the names of NVML's throttle reasons begin with."""
NOT_THROTTLED = ("None", "All", "GpuIdle", "UserDefinedClocks")
"""No reason, all of them, nothing to do, and an older name of ApplicationsClocksSetting."""


@dataclass(frozen=True)
class _Device:
    """One accelerator that CUDA would use."""

    index: int
    """As nvidia-smi numbers the cards."""
    name: str
    handle: Any
    """Of the device itself: its memory and processes."""
    card: Any
    """Of the whole card: its clocks and temperature. Another one than ``handle`` for a part of a card (MIG)."""
    whole: bool
    """Whether the device is the whole card; only then are power and energy its own."""


def _reasons(nvml: Any) -> dict[str, int]:
    """Return {NVML's word: bit} of the reasons that hold clocks down."""
    names = {name.removeprefix(REASON): bit for name, bit in vars(nvml).items() if name.startswith(REASON)}
    return {name: bit for name, bit in names.items() if name not in NOT_THROTTLED}


def _find(nvml: Any, entry: str) -> Any | None:
    """Return the handle of one entry of CUDA_VISIBLE_DEVICES; None if there is no such device.

    Entries are a card's index, its UUID (the beginning will do), or the UUID of a part of a card (MIG).
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
    """Return the devices that CUDA would use, in its order; like CUDA, stop at the first entry that is not there."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = [str(index) for index in range(nvml.nvmlDeviceGetCount())] if asked is None else asked.split(",")
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
    """The accelerators of this machine that a server may use. Open with :meth:`here`, end with :meth:`close`.

    Cards are numbered in PCI order. CUDA numbers unlike cards by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set;
    among cards that are all alike the two are the same.
    """

    def __init__(self, devices: list[_Device], nvml: Any) -> None:
        """Use :meth:`here`."""
        self._devices = devices
        self._nvml = nvml
        self._reasons = _reasons(nvml)

    @classmethod
    def here(cls, count: int | None = None, *, nvml: Any = pynvml) -> Self | None:
        """Open the devices that CUDA_VISIBLE_DEVICES leaves; None where there is no driver or no device.

        Args:
            count: of these only the first so many: those that the server is spread over.
            nvml: the module ``pynvml``, or one like it.
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
        """Let the driver go; nothing can be read afterwards."""
        self._nvml.nvmlShutdown()

    @property
    def names(self) -> tuple[str, ...]:
        """The devices as NVML names them, e.g. ``NVIDIA H20``."""
        return tuple(device.name for device in self._devices)

    def states(self) -> tuple[DeviceState, ...]:
        """Return clocks, temperature, power, memory and throttle reasons of every device now.

        Raises:
            EngineError: a device is lost.
        """
        return tuple(self._state(device) for device in self._devices)

    def memory_used(self) -> list[int] | None:
        """Return the memory in use on every device, in bytes, whoever uses it; None unless all of them tell.

        The driver's own share is not in it.

        Raises:
            EngineError: a device is lost.
        """
        return self._of_all("used")

    def memory_total(self) -> list[int] | None:
        """Return the memory that every device has, in bytes; None unless all of them tell.

        Raises:
            EngineError: a device is lost.
        """
        return self._of_all("total")

    def process_memory(self, pids: Collection[int]) -> int | None:
        """Return the memory that some processes use on all devices together, in bytes.

        None where NVML does not tell: no such process is listed (in a container it lists the host's process ids),
        or without its memory.

        Args:
            pids: of the processes.

        Raises:
            EngineError: a device is lost.
        """
        used_bytes: list[Any] = []
        for device in self._devices:
            listed = self._read(device, "nvmlDeviceGetComputeRunningProcesses", device.handle)
            used_bytes += [process.usedGpuMemory for process in listed or () if process.pid in pids]
        return None if not used_bytes or None in used_bytes else sum(used_bytes)

    def power_w(self) -> list[float | None]:
        """Return the power of every device in watts.

        An average over the last second from Ampere on (not A100, A30), where it is the power of the moment.

        Raises:
            EngineError: a device is lost.
        """
        return [self._power(device) for device in self._devices]

    def energy_counter_j(self) -> list[float] | None:
        """Return what every device has taken since its driver was loaded, in joules; None unless all of them tell.

        Raises:
            EngineError: a device is lost.
        """
        counters_j: list[float] = []
        for device in self._devices:
            counted = self._read(device, "nvmlDeviceGetTotalEnergyConsumption", device.card) if device.whole else None
            if counted is None:
                return None
            counters_j.append(counted * MILLI)
        return counters_j

    def utilization(self) -> list[int | None]:
        """Return the share of the last sample period in which every device ran a kernel, in percent.

        Raises:
            EngineError: a device is lost.
        """
        rates = [self._read(device, "nvmlDeviceGetUtilizationRates", device.handle) for device in self._devices]
        return [None if rate is None else rate.gpu for rate in rates]

    def busy(self) -> bool:
        """Tell whether any device ran a kernel in its last sample period, up to a second long.

        True also where a device does not tell, for nothing may be ended on a guess. A lost device does nothing.
        """
        try:
            return any(share is None or share > 0 for share in self.utilization())
        except EngineError:
            return False

    def _state(self, device: _Device) -> DeviceState:
        nvml = self._nvml
        bits = self._read(device, "nvmlDeviceGetCurrentClocksEventReasons", device.card) or 0
        memory = self._memory(device)
        return DeviceState(
            index=device.index,
            sm_clock_mhz=self._read(device, "nvmlDeviceGetClockInfo", device.card, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._read(device, "nvmlDeviceGetClockInfo", device.card, nvml.NVML_CLOCK_MEM),
            temperature_celsius=self._read(device, "nvmlDeviceGetTemperature", device.card, nvml.NVML_TEMPERATURE_GPU),
            power_w=self._power(device),
            memory_used_bytes=None if memory is None else memory.used,
            throttled=tuple(name for name, bit in self._reasons.items() if bits & bit),
        )

    def _power(self, device: _Device) -> float | None:
        milliwatts = self._read(device, "nvmlDeviceGetPowerUsage", device.card) if device.whole else None
        return None if milliwatts is None else milliwatts * MILLI

    def _of_all(self, part: str) -> list[int] | None:
        memories = [memory for device in self._devices if (memory := self._memory(device)) is not None]
        return [getattr(memory, part) for memory in memories] if len(memories) == len(self._devices) else None

    def _memory(self, device: _Device) -> Any | None:
        # Version 2 keeps what the driver reserves for itself out of ``used``, as nvidia-smi does.
        return self._read(device, "nvmlDeviceGetMemoryInfo", device.handle, self._nvml.nvmlMemory_v2)

    def _read(self, device: _Device, function: str, *arguments: Any) -> Any | None:
        """Return NVML's answer; None if it has none for this device.

        Raises:
            EngineError: the device is lost or needs a reset.
        """
        try:
            return getattr(self._nvml, function)(*arguments)
        except (self._nvml.NVMLError_GpuIsLost, self._nvml.NVMLError_ResetRequired) as error:
            raise EngineError(
                f"GPU {device.index} ({device.name}) can no longer be used: NVML says '{error}'; look for Xid in "
                f"`dmesg`, then reset it (`nvidia-smi --gpu-reset -i {device.index}`) or restart the machine"
            ) from error
        except self._nvml.NVMLError:
            return None
