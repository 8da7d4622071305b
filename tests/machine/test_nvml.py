"""Accelerators through a fake NVML whose names are checked against the real package."""

import inspect
from typing import Any

import pynvml
import pytest

from bench.errors import EngineError
from bench.machine.nvml import Devices
from tests.support.fake_nvml import Card, fake_nvml

READINGS = ("sm_clock_mhz", "memory_clock_mhz", "temperature_celsius", "power_w", "memory_used_bytes")


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def opened(*cards: Card, count: int | None = None) -> Devices:
    devices = Devices.here(count, nvml=fake_nvml(list(cards)))
    assert devices is not None
    return devices


def cards(n: int) -> list[Card]:
    return [Card(index=i, uuid=f"GPU-{i}{i}{i}{i}-aaaa", used=i * 10**9) for i in range(n)]


def indices(devices: Devices | None) -> list[int]:
    return [state.index for state in devices.states()] if devices else []


def test_the_fake_has_functions_and_arguments_of_the_real_package() -> None:
    for name, function in fake_nvml([]).functions.items():
        real = inspect.signature(getattr(pynvml, name))
        assert list(inspect.signature(function).parameters) == list(real.parameters), name


def test_a_state_has_the_units_that_its_names_say() -> None:
    (state,) = opened(Card(milliwatts=310_500, used=123)).states()
    assert (state.sm_clock_mhz, state.memory_clock_mhz, state.temperature_celsius) == (1980, 2619, 45)
    assert state.power_w == pytest.approx(310.5)
    assert state.memory_used_bytes == 123
    assert state.throttled == ()


def test_energy_is_in_joules() -> None:
    assert opened(Card(millijoules=lambda: 7_250)).energy_counter_j() == [pytest.approx(7.25)]


def test_memory_is_what_a_device_has_and_what_of_it_is_in_use() -> None:
    devices = opened(Card(used=3, total=8), Card(index=1, used=5, total=8))
    assert devices.memory_used() == [3, 5]
    assert devices.memory_total() == [8, 8]


def test_utilization_is_in_percent() -> None:
    assert opened(Card(percent=97), Card(index=1, percent=None)).utilization() == [97, None]


def test_devices_are_busy_if_one_computes_or_is_unknown() -> None:
    assert not opened(Card(percent=0), Card(index=1, percent=0)).busy()
    assert opened(Card(percent=0), Card(index=1, percent=3)).busy()
    assert opened(Card(percent=0), Card(index=1, percent=None)).busy()
    assert not opened(Card(error=pynvml.NVML_ERROR_GPU_IS_LOST)).busy()


def test_throttle_reasons_are_named_as_nvml_does_and_idleness_is_none() -> None:
    bits = (
        pynvml.nvmlClocksEventReasonGpuIdle
        | pynvml.nvmlClocksEventReasonSwPowerCap
        | pynvml.nvmlClocksEventReasonHwThermalSlowdown
    )
    (state,) = opened(Card(reasons=bits)).states()
    assert state.throttled == ("SwPowerCap", "HwThermalSlowdown")


def test_clocks_that_a_person_set_have_one_name() -> None:
    (state,) = opened(Card(reasons=pynvml.nvmlClocksEventReasonApplicationsClocksSetting)).states()
    assert state.throttled == ("ApplicationsClocksSetting",)


def test_what_a_device_does_not_support_is_none() -> None:
    bare = Card(
        sm_mhz=None, memory_mhz=None, temperature=None, milliwatts=None, used=None, reasons=None, millijoules=None,
        percent=None, processes=None,
    )  # fmt: skip
    devices = opened(bare)
    (state,) = devices.states()
    assert all(getattr(state, name) is None for name in READINGS)
    assert state.throttled == ()
    assert devices.energy_counter_j() is None
    assert devices.memory_used() is None
    assert devices.memory_total() is None
    assert devices.power_w() == [None]
    assert devices.process_memory({1}) is None


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_a_reading_that_fails_is_none(code: int) -> None:
    (state,) = opened(Card(error=code)).states()
    assert all(getattr(state, name) is None for name in READINGS)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
def test_a_lost_device_is_reported_with_advice(code: int) -> None:
    card = Card(index=3)
    devices = opened(card)
    card.error = code
    for read in (devices.states, devices.memory_used, devices.power_w, devices.energy_counter_j, devices.utilization):
        with pytest.raises(EngineError, match=r"GPU 3 \(NVIDIA H20\) can no longer be used.*nvidia-smi"):
            read()


def test_one_device_without_a_counter_makes_the_sum_unknown() -> None:
    assert opened(Card(), Card(index=1, millijoules=None)).energy_counter_j() is None


def test_one_device_with_unknown_memory_makes_the_sum_unknown() -> None:
    devices = opened(Card(), Card(index=1, used=None))
    assert devices.memory_used() is None
    assert [state.memory_used_bytes for state in devices.states()] == [60_000_000_000, None]


def test_without_a_driver_there_are_no_devices() -> None:
    assert Devices.here(nvml=fake_nvml([Card()], installed=False)) is None


def test_the_real_library_without_a_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", fake_nvml([], installed=False).nvmlInit)
    assert Devices.here() is None


def test_a_driver_without_devices_is_shut_down() -> None:
    nvml = fake_nvml([])
    assert Devices.here(nvml=nvml) is None
    assert (nvml.calls.init, nvml.calls.shutdown) == (1, 1)


def test_closing_shuts_the_driver_down() -> None:
    nvml = fake_nvml([Card()])
    devices = Devices.here(nvml=nvml)
    assert devices is not None
    assert devices.names == ("NVIDIA H20",)
    devices.close()
    assert (nvml.calls.init, nvml.calls.shutdown) == (1, 1)


def test_count_takes_the_first_ones() -> None:
    assert indices(opened(*cards(4), count=2)) == [0, 1]


@pytest.mark.parametrize(
    ("value", "visible"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("0,-1,2", [0]),
        ("1,9,2", [1]),
        ("GPU-2222-aaaa", [2]),
        ("GPU-33,GPU-1111", [3, 1]),
        ("GPU-none", []),
        ("MIG-none", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    value: str | None, visible: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert indices(Devices.here(nvml=fake_nvml(cards(4)))) == visible


def part_of_a_card() -> tuple[Card, Card]:
    card = Card(index=1, temperature=61, reasons=pynvml.nvmlClocksEventReasonSwPowerCap)
    nothing: dict[str, Any] = {"sm_mhz": None, "memory_mhz": None, "temperature": None, "percent": None}
    part = Card(name="NVIDIA H20 MIG 1g.12gb", uuid="MIG-5c89852c-d268-11eb", parent=card, used=7 * 10**9, **nothing)
    return card, part


def test_a_part_of_a_card_has_its_own_memory_and_the_clocks_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5c89852c-d268-11eb")
    devices = opened(*part_of_a_card())
    (state,) = devices.states()
    assert devices.names == ("NVIDIA H20 MIG 1g.12gb",)
    assert (state.index, state.sm_clock_mhz, state.temperature_celsius) == (1, 1980, 61)
    assert state.memory_used_bytes == 7 * 10**9
    assert state.throttled == ("SwPowerCap",)


def test_power_and_energy_of_a_whole_card_are_not_those_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5c89852c-d268-11eb")
    devices = opened(*part_of_a_card())
    assert devices.power_w() == [None]
    assert devices.energy_counter_j() is None
    assert devices.utilization() == [None]


def test_memory_of_processes_is_summed_over_devices() -> None:
    devices = opened(Card(processes=[(10, 5), (11, 7), (99, 100)]), Card(index=1, processes=[(10, 1)]))
    assert devices.process_memory({10, 11, 12}) == 13


@pytest.mark.parametrize("listed", [[], [(4242, 5)], [(10, None)]])
def test_memory_of_processes_is_none_if_nvml_does_not_report_it(listed: list[tuple[int, int | None]]) -> None:
    assert opened(Card(processes=listed)).process_memory({10}) is None
