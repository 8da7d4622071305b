"""Read a checkpoint folder tensor by tensor: plain layers unchanged, quantized ones expanded by their own format.

Memory use is that of the requested tensors, never that of the checkpoint. :mod:`quantize.formats` decodes the
safetensors files without the library that wrote them, so that the proof sees what the files contain.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.checkpoint import CheckpointError, TensorFact, read_header, read_quantization, weight_files
from quantize.formats import Format
from quantize.scheme import Scheme, scheme_of

if TYPE_CHECKING:
    import torch

MARKS = ("weight_packed", "qweight", "weight_scale", "weight_scale_inv")
"""Tensors that mark a layer as quantized."""
CACHE_SCALES = ("k_scale", "v_scale")
"""Scales of the KV cache."""
NOT_WEIGHT = ("bias", *CACHE_SCALES)
"""Tensors of a quantized layer that do not encode its weight."""


class Reader:
    """Reads one checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of all its safetensors files.

        Raises:
            CheckpointError: a file is truncated, a tensor occurs twice, or ``config.json`` is missing or not JSON.
        """
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.facts: dict[str, TensorFact] = {}
        for file in weight_files(folder):
            for name, fact in read_header(file).items():
                if name == "__metadata__":
                    continue
                if name in self.facts:
                    raise CheckpointError(f"{folder}: {name} is in {self.files[name].name} and again in {file.name}")
                begin, end = fact["data_offsets"]
                self.files[name] = file
                self.facts[name] = TensorFact(
                    name=name, dtype=fact["dtype"], shape=tuple(fact["shape"]), bytes=end - begin
                )
        try:
            self.config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from error

    @cached_property
    def claimed(self) -> Scheme | None:
        """Formats according to the checkpoint's own configuration; None if it has no quantization."""
        config = read_quantization(self.folder)
        return scheme_of(config) if config else None

    def form_of(self, layer: str) -> Format:
        """Return the format of a quantized layer.

        Raises:
            CheckpointError: the configuration does not name one.
        """
        if self.claimed is None:
            raise CheckpointError(f"{self.folder}: {layer} is quantized, but config.json has no quantization_config")
        form = self.claimed.of(layer)
        if form is None:
            raise CheckpointError(f"{self.folder}: {layer} is quantized, but no group of quantization_config has it")
        return form

    @cached_property
    def quantized_layers(self) -> dict[str, dict[str, TensorFact]]:
        """{layer: {tensor name within it: fact}} of every layer whose weight is quantized."""
        marked = {layer for name in self.facts for layer, _, part in [name.rpartition(".")] if part in MARKS}
        layers: dict[str, dict[str, TensorFact]] = {layer: {} for layer in marked}
        for name, fact in self.facts.items():
            layer, _, part = name.rpartition(".")
            if layer in marked and part not in NOT_WEIGHT:
                layers[layer][part] = fact
        return dict(sorted(layers.items()))

    def tensor(self, name: str) -> "torch.Tensor":
        """Return one stored tensor.

        Raises:
            CheckpointError: there is no such tensor.
        """
        from safetensors import safe_open

        if name not in self.files:
            raise CheckpointError(f"{self.folder}: there is no tensor {name}")
        with safe_open(self.files[name], framework="pt") as file:
            # Copied, because a tensor from safetensors keeps the complete file mapped while it exists.
            value: torch.Tensor = file.get_tensor(name).clone()
            return value

    def parts(self, layer: str) -> dict[str, "torch.Tensor"]:
        """Return the tensors that encode a quantized layer, by their names in the format that `form_of` returns.

        Those of ModelOpt have the names and values of compressed-tensors.
        """
        return self._decoded(layer, self.quantized_layers[layer])

    def input_scales(self, layer: str) -> dict[str, "torch.Tensor"]:
        """Return the scales by which a quantized layer's inputs are rounded, named as by `parts`."""
        return self._decoded(layer, [part for part in self.quantized_layers[layer] if part.startswith("input_")])

    def _decoded(self, layer: str, parts: Iterable[str]) -> dict[str, "torch.Tensor"]:
        from quantize.formats import as_compressed_tensors

        tensors = {part: self.tensor(f"{layer}.{part}") for part in parts}
        form = self.form_of(layer)
        return as_compressed_tensors(form, tensors) if form.container == "modelopt" else tensors

    def weight(self, layer: str, rows: int, columns: int) -> "torch.Tensor":
        """Return a layer's weight (rows, columns): as stored, or expanded to float32."""
        from quantize.formats import dequantize

        if layer not in self.quantized_layers:
            return self.tensor(f"{layer}.weight")
        return dequantize(self.form_of(layer), self.parts(layer), rows, columns)
