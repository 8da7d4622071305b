"""A source whose weights are rounded to nearest in a format, without calibration and without being written.

Its divergence from the source is what a calibrated checkpoint of the same format is compared with.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from quantize.expanded import Expanded
from quantize.formats import Format, round_inputs, scale_dtype


def round_weight(form: Format, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight, float32 (rows, columns), rounded to nearest with scales from the range of each block.

    Args:
        form: the format; its container does not matter.
        weight: the weight, (rows, columns); a block at the edge may be smaller.
    """
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    rows, columns = weight.shape
    down, along = form.rows_per_scale or rows, form.columns_per_scale or columns
    padded = nn.functional.pad(weight.float(), (0, -columns % along, 0, -rows % down))
    blocks = padded.unflatten(1, (-1, along)).unflatten(0, (-1, down)).transpose(1, 2)
    flat = blocks.flatten(0, 1).flatten(1)  # (blocks, weights of a block)
    args = QuantizationArgs(
        num_bits=form.bits,
        type=form.type,
        symmetric=form.symmetric,
        strategy="tensor_group" if form.scale == "e4m3" else "group",
        group_size=flat.shape[1],
        **scale_dtype(form),
    )
    shared = generate_gparam(*torch.aminmax(flat)) if form.scale == "e4m3" else None
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scale, zero = calculate_qparams(low, high, args, global_scale=shared)
    rounded = fake_quantize(flat, scale, zero, args, global_scale=shared)
    blocks = rounded.reshape(blocks.shape).transpose(1, 2)
    return blocks.flatten(2).flatten(0, 1)[:rows, :columns]


class Rounded(Expanded):
    """A 16-bit checkpoint as a model some of whose layers are rounded to nearest when they are read."""

    def __init__(self, folder: Path, forms: Mapping[str, Format], *, device: torch.device) -> None:
        """Create the model without weights.

        Args:
            folder: the 16-bit checkpoint.
            forms: how weights and inputs are rounded, by name of the layer; ranges of inputs are those of each batch.
            device: device that it runs on.
        """
        super().__init__(folder, device=device)
        self._forms = forms

    def weight(self, child: nn.Module, path: str, shape: torch.Size) -> torch.Tensor:
        """Return a layer's weight rounded, and round its inputs."""
        plain = super().weight(child, path, shape)
        form = self._forms.get(path)
        if form is None:
            return plain
        if form.activations:
            child.register_forward_pre_hook(lambda _, inputs: (_round_inputs(form, inputs[0]), *inputs[1:]))
        return round_weight(form, plain)


def _round_inputs(form: Format, inputs: torch.Tensor) -> torch.Tensor:
    """Return inputs rounded in the range that they have, also where the format has fixed ranges."""
    from compressed_tensors.quantization.utils import generate_gparam

    assert form.activations is not None
    parts = {}
    if form.activations.dynamic is False:
        at_run_time = form.activations.model_copy(update={"dynamic": True})
        form = form.model_copy(update={"activations": at_run_time})
    if form.scale == "e4m3" and inputs.numel():
        parts = {"input_global_scale": generate_gparam(*torch.aminmax(inputs.float()))}
    return round_inputs(form, parts, inputs)
