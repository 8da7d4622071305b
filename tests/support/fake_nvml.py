"""A fake of the module ``pynvml``, with its real constants and errors and with readings set by a test."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml

from bench.machine.nvml import Devices


@dataclass
class Card:
    """One device. None means that a reading is not supported."""

    index: int = 0
    name: str = "NVIDIA H20"
    uuid: str = "GPU-11111111-aaaa-bbbb-cccc-000000000000"
    parent: "Card | None" = None
    """The card of a MIG instance."""
    sm_mhz: int | None = 1980
    memory_mhz: int | None = 2619
    temperature: int | None = 45
    milliwatts: int | None = 310_500
    used: int | None = 60_000_000_000
    total: int = 102_000_000_000
    reasons: int | None = pynvml.nvmlClocksEventReasonGpuIdle
    millijoules: Callable[[], int] | None = lambda: 5_000_000
    percent: int | None = 97
    processes: list[tuple[int, int | None]] | None = field(default_factory=list)
    """(pid, bytes)."""
    error: int | None = None
    """An NVML error code that every reading raises."""


def fake_nvml(cards: list[Card], *, installed: bool = True) -> Any:
    """Return a module that reports ``cards``; MIG instances are found by their UUID only.

    Args:
        cards: the machine's devices.
        installed: whether there is a driver.
    """
    module = ModuleType("pynvml")
    for name, value in vars(pynvml).items():
        if name.startswith(("NVML_", "NVMLError", "nvmlClocksEventReason", "nvmlMemory_v")):
            setattr(module, name, value)
    whole = [card for card in cards if card.parent is None]
    calls = SimpleNamespace(init=0, shutdown=0)

    def answer(card: Card, value: Any) -> Any:
        if card.error is not None:
            raise pynvml.NVMLError(card.error)
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def init() -> None:
        if not installed:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        calls.init += 1

    def shutdown() -> None:
        calls.shutdown += 1

    def by_index(index: int) -> Card:
        if index >= len(whole):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return whole[index]

    def by_uuid(uuid: str) -> Card:
        matches = [card for card in cards if card.uuid == uuid]
        if not matches:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return matches[0]

    def clock(handle: Card, type: int) -> int:
        return answer(handle, handle.sm_mhz if type == pynvml.NVML_CLOCK_SM else handle.memory_mhz)

    def memory(handle: Card, version: int | None = None) -> Any:
        assert version == pynvml.nvmlMemory_v2
        return SimpleNamespace(used=answer(handle, handle.used), total=handle.total)

    def processes(handle: Card) -> list[Any]:
        listed = answer(handle, handle.processes)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in listed]

    functions: dict[str, Callable[..., Any]] = {
        "nvmlInit": init,
        "nvmlShutdown": shutdown,
        "nvmlDeviceGetCount": lambda: len(whole),
        "nvmlDeviceGetHandleByIndex": by_index,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda migDevice: migDevice.parent,  # noqa: N803
        "nvmlDeviceGetUUID": lambda handle: handle.uuid,
        "nvmlDeviceGetIndex": lambda handle: handle.index,
        "nvmlDeviceGetName": lambda handle: handle.name,
        "nvmlDeviceGetClockInfo": clock,
        "nvmlDeviceGetTemperature": lambda handle, sensor: answer(handle, handle.temperature),
        "nvmlDeviceGetPowerUsage": lambda handle: answer(handle, handle.milliwatts),
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: answer(handle, handle.reasons),
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: answer(
            handle, handle.millijoules and handle.millijoules()
        ),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=answer(handle, handle.percent), memory=0),
        "nvmlDeviceGetComputeRunningProcesses": processes,
    }
    for name, function in functions.items():
        setattr(module, name, function)
    module.functions, module.calls = functions, calls  # type: ignore[attr-defined]
    return module


def opened(*cards: Card) -> Devices:
    """Return the devices that the library of fake cards reports."""
    devices = Devices.here(nvml=fake_nvml(list(cards)))
    assert devices is not None
    return devices
