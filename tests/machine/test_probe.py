"""The probe on this machine, and the use of its figures with known figures."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.limits.roofline import peak
from bench.machine import peaks as devices
from bench.machine import probe
from bench.machine.peaks import default_threads, device_here, higher, own_table
from bench.records.record import Device
from testkit.records import device

pytestmark = pytest.mark.alone

OWN = """
[[device]]
name = "Ours"
matches = 'H20|Grid'
bandwidth_tb_per_s = 1.5
memory_gb = 10
tflops = {bf16 = 3}
source = "measured"
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SIZES", (2**18, 2**22, 2**24))
    monkeypatch.setattr(probe, "EDGES", (64, 128))
    monkeypatch.setattr(probe, "FIGURE_S", 0.02)


@pytest.mark.usefixtures("quick")
def test_torch_reads_memory_and_multiplies_in_every_type() -> None:
    figures = probe.probe_torch(torch.get_num_threads())
    assert figures["how"] == f"torch {torch.__version__}"
    assert [size for size, _ in figures["bandwidth_by_size"]] == [2**18, 2**22, 2**24]
    assert all(speed > 1e7 for _, speed in figures["bandwidth_by_size"])
    assert {"fp32", "bf16"} <= set(figures["flops_per_s"]) <= {"fp32", "bf16", "int8"}
    assert all(flops > 1e7 for flops in figures["flops_per_s"].values())


@pytest.mark.usefixtures("quick")
def test_without_torch_numpy_measures_single_precision() -> None:
    figures = probe.probe_numpy(2)
    assert figures["how"].startswith("numpy ")
    assert len(figures["bandwidth_by_size"]) == 3
    assert set(figures["flops_per_s"]) == {"fp32"}


@pytest.mark.usefixtures("quick")
def test_a_product_that_a_build_lacks_is_left_out() -> None:
    def missing() -> None:
        raise NotImplementedError

    assert set(probe._products(lambda edge: {"fp32": lambda: None, "int8": missing})) == {"fp32"}


def test_ten_times_the_work_takes_longer() -> None:
    small, large = (probe.best_seconds(lambda n=n: sum(range(n)), 0.02) for n in (20_000, 200_000))
    assert large > 3 * small


def test_this_cpu_is_measured_once_and_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the real probe in a separate process, as a run does, unless an earlier test has run it."""
    shutil.copytree(cache / "devices", tmp_path / "cache" / "devices")
    first = device_here(sys.executable, 1, cpu=True)
    shutil.copytree(tmp_path / "cache" / "devices", cache / "devices", dirs_exist_ok=True)
    assert first
    assert first.measured
    assert first.name.endswith(", 1 thread")
    assert "torch" in first.source
    assert first.bandwidth_bytes_per_s == dict(first.bandwidth_by_size)[2**30]
    assert peak(first, "bf16") >= first.flops_per_s["fp32"]
    monkeypatch.setattr(devices, "probe", lambda *_: pytest.fail("measured twice"))
    assert device_here(sys.executable, 1, cpu=True) == first
    other = device(bandwidth_bytes_per_s=1.0)
    monkeypatch.setattr(devices, "probe", lambda *_: other)
    assert device_here(sys.executable, 2, cpu=True) == other, "a different number of threads is a different device"


def test_measuring_again_keeps_the_higher_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter(
        [
            device(bandwidth_by_size=((1, 5.0), (9, 1.0)), bandwidth_bytes_per_s=1.0, flops_per_s={"fp32": 3.0}),
            device(bandwidth_by_size=((1, 4.0), (9, 2.0)), bandwidth_bytes_per_s=2.0, flops_per_s={"fp32": 1.0}),
        ]
    )
    monkeypatch.setattr(devices, "probe", lambda *_: next(figures))
    device_here(sys.executable, 1, cpu=True)
    again = device_here(sys.executable, 1, cpu=True, again=True)
    assert again
    assert again.bandwidth_by_size == ((1, 5.0), (9, 2.0))
    assert again.bandwidth_bytes_per_s == 2.0
    assert again.flops_per_s == {"fp32": 3.0}
    assert device_here(sys.executable, 1, cpu=True) == again


speeds = st.floats(1, 1e15)
measurements = st.builds(
    lambda small, large, peaks: device(
        bandwidth_by_size=((1 << 18, small), (1 << 30, large)), bandwidth_bytes_per_s=large, flops_per_s=peaks
    ),
    speeds,
    speeds,
    st.dictionaries(st.sampled_from(["fp32", "bf16", "int8"]), speeds, min_size=1),
)


@given(measurements, measurements)
def test_no_figure_ever_falls(before: Device, after: Device) -> None:
    both = higher(before, after)
    for figures in (before, after):
        assert both.bandwidth_bytes_per_s >= figures.bandwidth_bytes_per_s
        assert all(both.flops_per_s[kind] >= flops for kind, flops in figures.flops_per_s.items())
        assert all(dict(both.bandwidth_by_size)[size] >= speed for size, speed in figures.bandwidth_by_size)
    assert higher(both, after) == both


def test_an_interpreter_without_numpy_leaves_the_device_unknown(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    messages: list[str] = []
    assert device_here(str(tmp_path / "bare" / "bin" / "python"), 1, cpu=True, say=messages.append) is None
    (line,) = messages
    assert "has neither torch nor numpy: pip install numpy" in line


def test_an_accelerator_is_looked_up_and_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "probe", lambda *_: pytest.fail("measured"))
    messages: list[str] = []
    for names, bandwidth, words in (
        (["NVIDIA H20"], 4e12, None),
        (["NVIDIA Grid X"], None, "'NVIDIA Grid X' is not in the table of devices: no physical limit; add it to "),
        (["NVIDIA A10", "NVIDIA L4"], None, "the GPUs here differ (NVIDIA A10, NVIDIA L4)"),
    ):
        monkeypatch.setattr(devices, "_accelerators", lambda names=names: names)
        accelerator = device_here(sys.executable, say=messages.append)
        assert (accelerator.bandwidth_bytes_per_s if accelerator else None) == bandwidth
        assert [line for line in messages if words is None or words in line] or words is None
        assert words is not None or not messages


def test_local_entries_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    own_table().parent.mkdir(parents=True)
    own_table().write_text(OWN)
    for name in ("NVIDIA Grid X", "NVIDIA H20"):
        monkeypatch.setattr(devices, "_accelerators", lambda name=name: [name])
        entry = device_here(sys.executable)
        assert entry
        assert (entry.name, entry.bandwidth_bytes_per_s, entry.flops_per_s) == ("Ours", 1.5e12, {"bf16": 3e12})
    own_table().write_text(OWN.replace("memory_gb", "memory"))
    with pytest.raises(ConfigError, match=r"cache/devices\.toml: .* shows the format"):
        device_here(sys.executable)


def test_a_server_is_assumed_to_use_its_configured_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() >= 1
