"""Storage formats of quantized linear layers: their tensors, with dtypes and shapes, and the weights that they encode.

Five containers are read according to their specifications, without the library that wrote the file:

- ``compressed-tensors`` (llm-compressor): ``weight`` with ``weight_scale``, or ``weight_packed``;
- ``gptq`` and ``awq``: ``qweight``, ``qzeros``, ``scales`` (and ``g_idx``), as defined by AutoGPTQ and AutoAWQ;
- ``fp8``: ``weight`` with ``weight_scale_inv`` per 128 x 128 block, as in Qwen's and DeepSeek's FP8 releases;
- ``modelopt`` (NVIDIA): ``weight`` with ``weight_scale``, and for NVFP4 also ``weight_scale_2``.

A layer is always a matrix of ``rows`` output features by ``columns`` input features.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from quantize.key import Frozen

if TYPE_CHECKING:
    import torch

Container = Literal["compressed-tensors", "gptq", "awq", "fp8", "modelopt"]
FLOATS = frozenset({"BF16", "F16", "F32"})
FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of FP4 E2M1 by the lower three bits of its code (OCP Microscaling Formats, table 5); bit 3 is the sign."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""AutoAWQ packs column ``AWQ_ORDER[i]`` of each eight into nibble i."""


class Activations(Frozen):
    """Rounding of a layer's input before the multiplication; field names and values are those of compressed-tensors."""

    type: Literal["int", "float"]
    num_bits: Literal[4, 8]
    strategy: Literal["tensor", "token", "group", "tensor_group"]
    dynamic: bool | Literal["local"]
    group_size: int | None = None


class Stored(Frozen):
    """One tensor that a layer must have."""

    dtypes: frozenset[str]
    shape: tuple[int, ...]


class Format(Frozen):
    """How a checkpoint stores the layers it quantizes."""

    container: Container
    type: Literal["int", "float"]
    bits: Literal[4, 8]
    rows_per_scale: int | None
    """Output features that share a scale; None for all."""
    columns_per_scale: int | None
    """Input features that share a scale; None for all."""
    symmetric: bool = True
    scale: Literal["float", "e4m3", "e8m0"] = "float"
    """Dtype of the scales: 16 or 32 bit floats, or the 8-bit ones of NVFP4 and MXFP4."""
    packed: bool
    """Whether several weights share one stored word."""
    act_order: bool = False
    """Whether the file has an index from columns to groups (GPTQ with ``desc_act``)."""
    activations: Activations | None = None

    def __str__(self) -> str:
        """Return the format in words, e.g. ``int4, scales per 64 columns, symmetric, container awq``."""
        if self.columns_per_scale is None:
            shared = "per channel" if self.rows_per_scale else "per tensor"
        elif self.rows_per_scale == 1:
            shared = f"per {self.columns_per_scale} columns"
        else:
            shared = f"per block of {self.rows_per_scale} x {self.columns_per_scale}"
        symmetry = "symmetric" if self.symmetric else "asymmetric"
        words = f"{self.type}{self.bits}, scales {shared}, {symmetry}, container {self.container}"
        inputs = self.activations
        if inputs is None:
            return words
        scaled = "fixed" if inputs.dynamic is False else "at run time"
        return f"{words}; activations {inputs.type}{inputs.num_bits} {scaled}"

    def stored(self, rows: int, columns: int) -> dict[str, Stored]:
        """Return {tensor name within the layer: its required form} for a layer of ``rows`` x ``columns``."""
        across = 1 if self.rows_per_scale is None else math.ceil(rows / self.rows_per_scale)
        along = 1 if self.columns_per_scale is None else math.ceil(columns / self.columns_per_scale)
        per_word = 32 // self.bits
        words = frozenset({"I32"})
        if self.container == "gptq":
            return {
                "qweight": Stored(dtypes=words, shape=(columns // per_word, rows)),
                "qzeros": Stored(dtypes=words, shape=(along, rows // per_word)),
                "scales": Stored(dtypes=FLOATS, shape=(along, rows)),
                "g_idx": Stored(dtypes=words, shape=(columns,)),
            }
        if self.container == "awq":
            return {
                "qweight": Stored(dtypes=words, shape=(columns, rows // per_word)),
                "qzeros": Stored(dtypes=words, shape=(along, rows // per_word)),
                "scales": Stored(dtypes=FLOATS, shape=(along, rows)),
            }
        if self.container == "fp8":
            return {
                "weight": Stored(dtypes=frozenset({"F8_E4M3"}), shape=(rows, columns)),
                "weight_scale_inv": Stored(dtypes=FLOATS, shape=(across, along)),
            }
        if self.container == "modelopt":
            return self._modelopt(rows, columns, along)
        return self._compressed_tensors(rows, columns, across, along)

    def _modelopt(self, rows: int, columns: int, along: int) -> dict[str, Stored]:
        one = Stored(dtypes=frozenset({"F32"}), shape=())
        if self.bits == 8:
            weight = Stored(dtypes=frozenset({"F8_E4M3"}), shape=(rows, columns))
            return {"weight": weight, "weight_scale": one, "input_scale": one}
        return {
            "weight": Stored(dtypes=frozenset({"U8"}), shape=(rows, columns // 2)),
            "weight_scale": Stored(dtypes=frozenset({"F8_E4M3"}), shape=(rows, along)),
            "weight_scale_2": one,
            "input_scale": one,
        }

    def _compressed_tensors(self, rows: int, columns: int, across: int, along: int) -> dict[str, Stored]:
        parts: dict[str, Stored] = {}
        if self.type == "float" and self.bits == 4:
            parts["weight_packed"] = Stored(dtypes=frozenset({"U8"}), shape=(rows, columns // 2))
            scale = frozenset({"F8_E4M3"} if self.scale == "e4m3" else {"U8"})
            parts["weight_scale"] = Stored(dtypes=scale, shape=(rows, along))
            if self.scale == "e4m3":
                parts["weight_global_scale"] = Stored(dtypes=frozenset({"F32"}), shape=(1,))
                if self.activations:
                    parts["input_global_scale"] = Stored(dtypes=frozenset({"F32"}), shape=(1,))
            return parts
        if self.packed:
            per_word = 32 // self.bits
            parts["weight_packed"] = Stored(dtypes=frozenset({"I32"}), shape=(rows, math.ceil(columns / per_word)))
            parts["weight_shape"] = Stored(dtypes=frozenset({"I64", "I32"}), shape=(2,))
            if not self.symmetric:
                zeros = (math.ceil(rows / per_word), along)
                parts["weight_zero_point"] = Stored(dtypes=frozenset({"I32"}), shape=zeros)
        else:
            dtype = "F8_E4M3" if self.type == "float" else "I8"
            parts["weight"] = Stored(dtypes=frozenset({dtype}), shape=(rows, columns))
        scale_shape = (1,) if self.rows_per_scale is None else (across, along)
        parts["weight_scale"] = Stored(dtypes=FLOATS, shape=scale_shape)
        if self.activations and self.activations.dynamic is False:
            parts["input_scale"] = Stored(dtypes=FLOATS, shape=(1,))
        return parts


def integers(
    bits: Literal[4, 8], group_size: int | None, *, symmetric: bool, container: Container = "compressed-tensors"
) -> Format:
    """Return the format of integer weights with 16-bit activations; ``group_size`` None is one scale per channel."""
    return Format(
        container=container,
        type="int",
        bits=bits,
        rows_per_scale=1,
        columns_per_scale=group_size,
        symmetric=symmetric,
        packed=True,
    )


def _unpack(words: "torch.Tensor", bits: int, dim: int) -> "torch.Tensor":
    """Return the unsigned fields of 32-bit words, lowest bits first, unpacked along ``dim``."""
    import torch

    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    spread = words.unsqueeze(dim + 1) >> shifts.view([-1 if axis == dim + 1 else 1 for axis in range(words.dim() + 1)])
    return (spread & (2**bits - 1)).flatten(dim, dim + 1)


def _spread(values: "torch.Tensor", form: Format, rows: int, columns: int) -> "torch.Tensor":
    """Return one value per weight, (rows, columns), from one value per block."""
    if values.numel() == 1:
        return values.reshape(1, 1)
    down = values if form.rows_per_scale in (None, 1) else values.repeat_interleave(form.rows_per_scale, 0)[:rows]
    if form.columns_per_scale is None:
        return down
    return down.repeat_interleave(form.columns_per_scale, 1)[:, :columns]


def dequantize(form: Format, parts: Mapping[str, "torch.Tensor"], rows: int, columns: int) -> "torch.Tensor":
    """Return the weight, float32 (rows, columns), that a layer's stored tensors encode."""
    import torch

    if form.container == "gptq":
        # AutoGPTQ stores zero points minus one; those of a symmetric layer are all the middle of the range.
        groups = parts["g_idx"].long()
        zeros = (_unpack(parts["qzeros"], form.bits, 1) + 1) & (2**form.bits - 1)
        values = _unpack(parts["qweight"], form.bits, 0) - zeros[groups]
        return (values * parts["scales"].float()[groups]).T.contiguous()
    if form.container == "awq":
        order = torch.tensor([block + AWQ_ORDER.index(i) for block in range(0, rows, 8) for i in range(8)])
        zeros = _unpack(parts["qzeros"], form.bits, 1)[:, order].repeat_interleave(columns // len(parts["qzeros"]), 0)
        scales = parts["scales"].float().repeat_interleave(columns // len(parts["scales"]), 0)
        return ((_unpack(parts["qweight"], form.bits, 1)[:, order] - zeros) * scales).T.contiguous()
    if form.container == "fp8":
        return parts["weight"].float() * _spread(parts["weight_scale_inv"].float(), form, rows, columns)
    if form.type == "float" and form.bits == 4:
        codes = torch.stack([parts["weight_packed"] & 15, parts["weight_packed"] >> 4], dim=-1).flatten(1).long()
        table = torch.tensor([*FP4_VALUES, *(-value for value in FP4_VALUES)])
        if form.scale == "e8m0":
            scale = torch.exp2(parts["weight_scale"].float() - 127)
        else:
            scale = parts["weight_scale"].float() / parts["weight_global_scale"]
        return table[codes] * _spread(scale, form, rows, columns)
    scale = _spread(parts["weight_scale"].float(), form, rows, columns)
    if not form.packed:
        return parts["weight"].float() * scale
    middle = 2 ** (form.bits - 1)
    values = _unpack(parts["weight_packed"], form.bits, 1)[:, :columns].float() - middle
    if not form.symmetric:
        zeros = _unpack(parts["weight_zero_point"], form.bits, 0)[:rows].float() - middle
        values = values - _spread(zeros, form, rows, columns)
    return values * scale


def as_compressed_tensors(form: Format, parts: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Return the tensors of a ``modelopt`` layer under the names, and with the values, of compressed-tensors.

    ModelOpt multiplies by the scales of a whole tensor, and compressed-tensors divides by them.
    """
    if form.bits == 8:
        return dict(parts)
    names = {"weight": "weight_packed", "weight_scale_2": "weight_global_scale", "input_scale": "input_global_scale"}
    return {
        names.get(name, name): 1 / value.reshape(1) if name in ("weight_scale_2", "input_scale") else value
        for name, value in parts.items()
    }


def scales_of(form: Format, parts: Mapping[str, "torch.Tensor"], rows: int, columns: int) -> "torch.Tensor":
    """Return the scale of each weight, float32, of a shape that broadcasts to (rows, columns)."""
    import torch

    if form.container == "gptq":
        return parts["scales"].float()[parts["g_idx"].long()].T
    if form.container == "awq":
        return parts["scales"].float().repeat_interleave(columns // len(parts["scales"]), 0).T
    if form.container == "fp8":
        return _spread(parts["weight_scale_inv"].float(), form, rows, columns)
    scale = parts["weight_scale"].float()
    if form.scale == "e8m0":
        scale = torch.exp2(scale - 127)
    elif form.scale == "e4m3":
        scale = scale / parts["weight_global_scale"]
    return _spread(scale, form, rows, columns)


def step_sizes(form: Format, parts: Mapping[str, "torch.Tensor"], weight: "torch.Tensor") -> "torch.Tensor":
    """Return the distance between the format's neighbouring values at each weight, float32 (rows, columns)."""
    import torch

    scale = scales_of(form, parts, *weight.shape)
    if form.type == "int":
        return scale.expand(weight.shape)
    size = (weight / scale).abs()
    if form.bits == 8:  # E4M3: three bits of mantissa, exponents from -6
        return scale * torch.exp2(torch.floor(torch.log2(size.clamp_min(2**-6))) - 3)
    return scale * torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))


def round_inputs(form: Format, parts: Mapping[str, "torch.Tensor"], inputs: "torch.Tensor") -> "torch.Tensor":
    """Return a layer's inputs (…, columns) rounded as its kernel would round them, in their own dtype."""
    if form.activations is None or not inputs.numel():
        return inputs
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
    from torch import nn

    flat = inputs.reshape(1, -1, inputs.shape[-1])  # the library expects batch and token as axes 0 and 1
    args = QuantizationArgs(**form.activations.model_dump(), symmetric=True, **scale_dtype(form))
    shared = parts.get("input_global_scale")
    if form.activations.dynamic is False:
        scale, zero = parts["input_scale"], None
    else:
        scale, zero = compute_dynamic_scales_and_zp(flat, args, nn.Module(), global_scale=shared)
    rounded = fake_quantize(flat, scale, zero, args, global_scale=shared)
    return rounded.reshape(inputs.shape).to(inputs.dtype)


def scale_dtype(form: Format) -> dict[str, Any]:
    """Return the fields of compressed-tensors' arguments that give the dtype of a format's scales."""
    import torch

    if form.scale == "e8m0":
        return {"scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
    return {"scale_dtype": torch.float8_e4m3fn, "zp_dtype": torch.float8_e4m3fn} if form.scale == "e4m3" else {}
