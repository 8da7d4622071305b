"""Rounding to nearest, checked against exhaustive search over the values that a format has."""

import pytest

torch = pytest.importorskip("torch")

from quantize.formats import FP4_VALUES, Activations, Format, integers  # noqa: E402
from quantize.rounding import round_weight  # noqa: E402

FP8 = Format(
    container="compressed-tensors", type="float", bits=8, rows_per_scale=1, columns_per_scale=None, packed=False
)
FP8_BLOCK = FP8.model_copy(update={"rows_per_scale": 8, "columns_per_scale": 8, "container": "fp8"})
INT8 = FP8.model_copy(
    update={"type": "int", "activations": Activations(type="int", num_bits=8, strategy="token", dynamic=True)}
)
MXFP4 = FP8.model_copy(update={"bits": 4, "columns_per_scale": 32, "scale": "e8m0", "packed": True})
NVFP4 = MXFP4.model_copy(update={"columns_per_scale": 16, "scale": "e4m3"})


def weight(rows: int = 20, columns: int = 64) -> "torch.Tensor":
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)) * 0.02


def blocks(form: Format, matrix: "torch.Tensor") -> list["torch.Tensor"]:
    down, along = form.rows_per_scale or matrix.shape[0], form.columns_per_scale or matrix.shape[1]
    return [part for strip in matrix.split(down, 0) for part in strip.split(along, 1)]


def nearest(block: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    return values[(block.reshape(-1, 1) - values).abs().argmin(1)].reshape(block.shape)


def grid(form: Format, block: "torch.Tensor") -> "torch.Tensor":
    """Return all values that a block of weights can have, from the definition of the format."""
    top = block.abs().max()
    if form.type == "float":
        every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        return every[every.isfinite()] * top / 448
    if form.symmetric:
        return torch.arange(-(2 ** (form.bits - 1)), 2 ** (form.bits - 1)) * top / ((2**form.bits - 1) / 2)
    low, high = block.min().clamp_max(0), block.max().clamp_min(0)
    step = (high - low) / (2**form.bits - 1)
    return (torch.arange(2**form.bits) + torch.round(low / step)) * step


@pytest.mark.parametrize(
    "form",
    [integers(4, 32, symmetric=True), integers(4, 32, symmetric=False), integers(8, None, symmetric=True), FP8,
     FP8_BLOCK, INT8],
    ids=str,
)  # fmt: skip
def test_each_weight_becomes_the_nearest_value_of_its_block(form: Format) -> None:
    matrix = weight()
    rounded = round_weight(form, matrix)
    assert rounded.shape == matrix.shape
    for before, after in zip(blocks(form, matrix), blocks(form, rounded), strict=True):
        values = grid(form, before)
        torch.testing.assert_close(after, nearest(after, values), rtol=1e-5, atol=1e-7)
        # Of two values that are equally near, either is right.
        distance, least = (after - before).abs(), (nearest(before, values) - before).abs()
        torch.testing.assert_close(distance, least, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", [MXFP4, NVFP4], ids=["mxfp4", "nvfp4"])
def test_values_of_four_bits_are_those_of_the_table_times_one_scale(form: Format) -> None:
    matrix = weight()
    table = torch.tensor([*FP4_VALUES, *(-value for value in FP4_VALUES)])
    for before, after in zip(blocks(form, matrix), blocks(form, round_weight(form, matrix)), strict=True):
        steps = after.abs().unique()
        scale = float(steps[steps > 0].min() / 0.5)
        fits = [
            s
            for s in (scale, scale / 2, scale / 3, scale / 4, scale / 6)
            if bool((nearest(after / s, table) - after / s).abs().max() < 1e-4)
        ]
        assert fits
        assert min(float((nearest(before / s, table) * s - after).abs().max()) for s in fits) < 1e-6
