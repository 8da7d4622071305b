"""Faults of quantized checkpoints, injected into copies of sound ones."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quantize.reader import Reader

SCALES = ("weight_scale", "scales", "weight_scale_inv")
PACKED = ("weight_packed", "qweight", "weight")
ZEROS = ("weight_zero_point", "qzeros")


@dataclass
class Damaged:
    """A copy of a checkpoint with one file of weights."""

    folder: Path
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    """Its quantized layers."""
    keep: float = 1.0
    """Share of the file that is kept."""

    @classmethod
    def of(cls, folder: Path, copy: Path) -> "Damaged":
        shutil.copytree(folder, copy)
        return cls(copy, load_file(copy / "model.safetensors"), tuple(Reader(folder).quantized_layers))

    def part(self, layer: str, names: tuple[str, ...]) -> str | None:
        """Return the full name of one of a layer's tensors; None if it has none of them."""
        return next((f"{layer}.{name}" for name in names if f"{layer}.{name}" in self.tensors), None)

    def change(self, layer: str, names: tuple[str, ...], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        name = self.part(layer, names)
        assert name is not None
        self.tensors[name] = change(self.tensors[name]).contiguous()

    def write(self) -> Reader:
        file = self.folder / "model.safetensors"
        save_file(self.tensors, file, metadata={"format": "pt"})
        with file.open("r+b") as stream:
            stream.truncate(int(self.keep * file.stat().st_size))
        return Reader(self.folder)


def _zero(damaged: Damaged, layer: str) -> None:
    exponents = damaged.tensors[damaged.part(layer, SCALES) or ""].dtype == torch.uint8
    damaged.change(layer, PACKED if exponents else SCALES, torch.zeros_like)


def _last(damaged: Damaged, ending: str) -> str:
    return [layer for layer in damaged.layers if layer.endswith(ending)][-1]


def zeroed_matrix(damaged: Damaged) -> None:
    _zero(damaged, _last(damaged, "down_proj"))


def zeroed_layer(damaged: Damaged) -> None:
    for layer in damaged.layers:
        if layer.startswith("model.layers.1."):
            _zero(damaged, layer)


def dead_experts(damaged: Damaged) -> None:
    for layer in damaged.layers:
        if ".experts." in layer:
            _zero(damaged, layer)


def one_dead_expert(damaged: Damaged) -> None:
    _zero(damaged, next(layer for layer in damaged.layers if ".experts.3.down_proj" in layer))


def swapped_layers(damaged: Damaged) -> None:
    first, second = (f"model.layers.{number}.self_attn.o_proj." for number in (0, 1))
    for name in [name for name in damaged.tensors if name.startswith(first)]:
        other = second + name.removeprefix(first)
        damaged.tensors[name], damaged.tensors[other] = damaged.tensors[other], damaged.tensors[name]


def scaled(factor: float) -> Callable[[Damaged], None]:
    def apply(damaged: Damaged) -> None:
        layer = _last(damaged, "gate_proj")
        if damaged.tensors[damaged.part(layer, SCALES) or ""].dtype == torch.uint8:  # powers of two
            damaged.change(layer, SCALES, lambda scale: scale + 1)
        else:
            damaged.change(layer, SCALES, lambda scale: (scale.float() * factor).to(scale.dtype))

    return apply


def wrong_zero_points(damaged: Damaged) -> None:
    """Shift all zero points by one."""
    damaged.change(_last(damaged, "q_proj"), ZEROS, lambda zeros: zeros ^ 0x11111111)


def transposed_groups(damaged: Damaged) -> None:
    """Store the scales of a matrix in the order of the other axis."""
    damaged.change(_last(damaged, "down_proj"), SCALES, lambda scale: scale.T.reshape(scale.shape).flip(0))


def infinite_scale(damaged: Damaged) -> None:
    """Overflow, as of FP16."""
    damaged.change(_last(damaged, "k_proj"), SCALES, _with(float("inf")))


def scale_that_is_no_number(damaged: Damaged) -> None:
    damaged.change(_last(damaged, "k_proj"), SCALES, _with(float("nan")))


def _with(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(scale: torch.Tensor) -> torch.Tensor:
        changed = scale.clone()
        if scale.dtype == torch.uint8:
            changed.view(-1)[0] = 255
        elif scale.dtype == torch.float8_e4m3fn:
            changed.view(torch.uint8).view(-1)[0] = 0x7F  # E4M3 has no infinity, only NaN
        else:
            changed.view(-1)[0] = value
        return changed

    return change


def stale_norm(damaged: Damaged) -> None:
    """Keep a norm while the layers that read it were scaled, or the other way round."""
    name = "model.layers.0.post_attention_layernorm.weight"
    factors = torch.linspace(0.5, 2.0, len(damaged.tensors[name]))
    damaged.tensors[name] = (damaged.tensors[name].float() * factors).to(damaged.tensors[name].dtype)


def changed_norm(damaged: Damaged) -> None:
    damaged.tensors["model.norm.weight"][0] += 1


def truncated_shard(damaged: Damaged) -> None:
    """Lose the end of the file of weights."""
    damaged.keep = 0.9


FAULTS: Mapping[str, Callable[[Damaged], None]] = {
    "zeroed matrix": zeroed_matrix,
    "zeroed layer": zeroed_layer,
    "dead experts": dead_experts,
    "one dead expert": one_dead_expert,
    "swapped layers": swapped_layers,
    "scales x 1.5": scaled(1.5),
    "wrong zero points": wrong_zero_points,
    "truncated shard": truncated_shard,
    "transposed groups": transposed_groups,
    "infinite scale": infinite_scale,
    "scale that is no number": scale_that_is_no_number,
    "stale norm": stale_norm,
    "changed norm": changed_norm,
}


def fits(fault: str, damaged: Damaged) -> bool:
    """Return whether a checkpoint can have a fault: it may lack experts, zero points, or more than a few scales."""
    if "expert" in fault:
        return any(".experts." in layer for layer in damaged.layers)
    if fault == "transposed groups":
        return damaged.tensors[damaged.part(_last(damaged, "down_proj"), SCALES) or ""].numel() > 3
    return fault != "wrong zero points" or damaged.part(_last(damaged, "q_proj"), ZEROS) is not None
