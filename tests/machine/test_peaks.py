"""The table of devices: looked up by the driver's name, each entry with its source."""

import pytest

from bench.machine.peaks import lookup, table


@pytest.mark.parametrize(
    ("name", "terabytes_per_s"),
    [
        ("NVIDIA H20", 4.0),
        ("NVIDIA H20-3e", 4.8),
        ("NVIDIA H100 80GB HBM3", 3.35),
        ("NVIDIA H100 PCIe", 2.0),
        ("NVIDIA H100 NVL", 3.9),
        ("NVIDIA H200", 4.8),
        ("NVIDIA H200 NVL", 4.8),
        ("NVIDIA H800", 3.35),
        ("NVIDIA H800 PCIe", 2.0),
        ("NVIDIA GH200 480GB", 4.0),
        ("NVIDIA A100-SXM4-80GB", 2.039),
        ("NVIDIA A100-SXM4-40GB", 1.555),
        ("NVIDIA A100-PCIE-40GB", 1.555),
        ("NVIDIA A100 80GB PCIe", 1.935),
        ("NVIDIA A800-SXM4-80GB", 2.039),
        ("NVIDIA L40S", 0.864),
        ("NVIDIA L40", 0.864),
        ("NVIDIA L4", 0.3),
        ("NVIDIA A10", 0.6),
        ("NVIDIA A30", 0.933),
        ("NVIDIA GeForce RTX 3090", 0.936),
        ("NVIDIA GeForce RTX 4090", 1.008),
        ("NVIDIA GeForce RTX 5090", 1.792),
        ("NVIDIA RTX 6000 Ada Generation", 0.96),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1.792),
        ("NVIDIA B200", 8.0),
        ("NVIDIA GB200", 8.0),
        ("Tesla V100-SXM2-32GB", 0.9),
        ("Tesla T4", 0.32),
    ],
)
def test_a_device_is_found_by_the_name_its_driver_gives(name: str, terabytes_per_s: float) -> None:
    device = lookup(name)
    assert device
    assert device.bandwidth_bytes_per_s == pytest.approx(terabytes_per_s * 1e12)


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H20N", "NVIDIA GeForce RTX 4090 D", "NVIDIA A10G", "NVIDIA L400", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", ""],
)
def test_a_device_with_a_similar_name_is_not_matched(name: str) -> None:
    assert lookup(name) is None


def test_every_entry_of_the_table_has_a_source_and_dense_figures() -> None:
    for entry in table():
        assert "https://" in entry.source
        assert entry.tflops["bf16"] > entry.tflops["fp32"]
        assert set(entry.tflops) <= {"fp32", "bf16", "fp8", "int8", "fp4"}
        for narrow in {"fp8", "int8"} & set(entry.tflops):
            assert 1.9 < entry.tflops[narrow] / entry.tflops["bf16"] < 4.1
