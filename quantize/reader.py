"""Read a checkpoint folder tensor by tensor: plain layers unchanged, quantized ones expanded by their own format.

Memory use is that of the requested tensors, never that of the checkpoint. :mod:`quantize.formats` decodes the
safetensors files without the library that wrote them, so that the proof sees what the files contain.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.checkpoint import CheckpointError, TensorFact, read_header, weight_files
from quantize.formats import Format, format_of

if TYPE_CHECKING:
    import torch

MARKS = ("weight_packed", "qweight", "weight_scale", "weight_scale_inv")
"""Tensors that mark a layer as quantized."""


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
    def claimed(self) -> tuple[Format, tuple[str, ...]] | None:
        """Format and unquantized layers according to ``config.json``; None if it has no quantization."""
        config = self.config.get("quantization_config")
        return format_of(config) if config else None

    @cached_property
    def quantized_layers(self) -> dict[str, dict[str, TensorFact]]:
        """{layer: {tensor name within it: fact}} of every layer whose weight is quantized."""
        marked = {layer for name in self.facts for layer, _, part in [name.rpartition(".")] if part in MARKS}
        layers: dict[str, dict[str, TensorFact]] = {layer: {} for layer in marked}
        for name, fact in self.facts.items():
            layer, _, part = name.rpartition(".")
            if layer in marked and part != "bias":
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
        """Return the stored tensors of a quantized layer by their names within it."""
        return {part: self.tensor(f"{layer}.{part}") for part in self.quantized_layers[layer]}

    def weight(self, layer: str, rows: int, columns: int) -> "torch.Tensor":
        """Return a layer's weight (rows, columns): as stored, or expanded to float32."""
        from quantize.formats import dequantize

        if layer not in self.quantized_layers:
            return self.tensor(f"{layer}.weight")
        if self.claimed is None:
            raise CheckpointError(f"{self.folder}: {layer} is quantized, but config.json has no quantization_config")
        return dequantize(self.claimed[0], self.parts(layer), rows, columns)
