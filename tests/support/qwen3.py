"""Shapes, formats and a device with limits computed by hand."""

from bench.machine.peaks import lookup
from bench.records.record import Device
from quantize.architecture import Architecture
from quantize.formats import Activations, Format, integers

QWEN3_8B = Architecture(
    layers=36, hidden_size=4096, intermediate_size=12288, heads=32, kv_heads=8, head_dim=128, vocab_size=151936,
    tied_embeddings=False,
)  # fmt: skip
QWEN3_235B = Architecture(
    layers=94, hidden_size=4096, intermediate_size=12288, heads=64, kv_heads=4, head_dim=128, vocab_size=151936,
    tied_embeddings=False, experts=128, experts_per_token=8, moe_intermediate_size=1536,
)  # fmt: skip
AWQ = integers(4, 128, symmetric=False, container="awq")
FP8 = Format(
    container="fp8",
    type="float",
    bits=8,
    rows_per_scale=128,
    columns_per_scale=128,
    packed=False,
    activations=Activations(type="float", num_bits=8, strategy="group", dynamic=True, group_size=128),
)


def h20() -> Device:
    device = lookup("NVIDIA H20")
    assert device
    return device
