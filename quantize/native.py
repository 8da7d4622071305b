"""Functions shared by backends that write the native ``gptq`` and ``awq`` containers of Qwen's own releases.

``config.json`` and all files other than the weights come from the source, so that current engines read the checkpoint
like its source; only the weights and ``quantization_config`` come from the library.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quantize.architecture import Architecture
from quantize.checkpoint import MANIFEST_NAME, tensors
from quantize.proof import is_ignored, linear_layers

if TYPE_CHECKING:
    import torch

SHARD_SIZE = "5GB"
FLOAT16 = "float16"
SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
NOT_COPIED = (MANIFEST_NAME, "config.json", "model.safetensors.index.json")
LAYERS = "model.layers."
STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers of a decoder layer grouped by their input, in the order of computation."""
AWQ_GRID = 20
"""Number of scales that AutoAWQ and its successors try; a constant in their code."""


class NativeConfig(Protocol):
    """The fields of a method's config that are used here."""

    @property
    def bits(self) -> int: ...  # noqa: D102
    @property
    def symmetric(self) -> bool: ...  # noqa: D102
    @property
    def ignore(self) -> tuple[str, ...]: ...  # noqa: D102
    def used_group_size(self, architecture: Architecture) -> int | None:  # noqa: D102
        ...


class AwqConfig(NativeConfig, Protocol):
    """The fields of AWQ's config that are used here."""

    @property
    def n_grid(self) -> int: ...  # noqa: D102


def check_gptq(config: NativeConfig) -> None:
    """Check that the ``gptq`` container supports the config.

    Raises:
        ValueError: it does not.
    """
    if not config.symmetric:
        raise ValueError(
            "the gptq container stores zero points minus one, so a zero point of 0 would be lost: "
            "use quant.symmetric=true, or quant.backend=llmcompressor"
        )


def check_awq(config: AwqConfig, architecture: Architecture) -> int:
    """Check that the ``awq`` container and the libraries that write it support the config; return the group size.

    Raises:
        ValueError: they do not.
    """
    if config.bits != 4:
        raise ValueError(f"the awq container stores 4 bits, not {config.bits}: use quant.backend=llmcompressor")
    if config.symmetric:
        raise ValueError(
            "the awq container always has zero points: use quant.symmetric=false, or quant.backend=llmcompressor"
        )
    group_size = config.used_group_size(architecture)
    if group_size is None:
        raise ValueError("this backend's AWQ needs a group size: use quant.group_size=128, or backend=llmcompressor")
    if config.n_grid != AWQ_GRID:
        raise ValueError(
            f"this backend always tries {AWQ_GRID} scales: use quant.n_grid={AWQ_GRID}, or quant.backend=llmcompressor"
        )
    return group_size


def inner_layers(source: Path, ignore: tuple[str, ...]) -> tuple[list[list[str]], list[str]]:
    """Return (linear layers to quantize, layers to leave in 16 bits), by their names within a decoder layer.

    The layers to quantize are grouped by their input, in the order of computation.

    Raises:
        ValueError: a layer would be quantized in one decoder layer and not in another, or is of an unknown kind.
    """
    facts = list(tensors(source))
    to_quantize, to_ignore = set(), set()
    for name in linear_layers(facts, ()):
        number, _, inner = name.removeprefix(LAYERS).partition(".")
        inside = name.startswith(LAYERS) and number.isdecimal()
        if is_ignored(name, ignore):
            to_ignore |= {inner} if inside else set()
        elif inside and any(inner.endswith(f".{kind}") for stage in STAGES for kind in stage):
            to_quantize.add(inner)
        else:
            raise ValueError(
                f"this backend does not support a layer like {name}: add it to quant.ignore, or change quant.backend"
            )
    both = sorted(to_quantize & to_ignore)
    if both:
        raise ValueError(
            f"this backend treats all decoder layers equally, but quant.ignore names {both[0]} only in some: "
            "ignore it in all, or use quant.backend=llmcompressor"
        )
    stages = [sorted(name for name in to_quantize if name.rpartition(".")[2] in stage) for stage in STAGES]
    return [stage for stage in stages if stage], sorted(to_ignore)


def save_float16(target: Path, weights: Mapping[str, "torch.Tensor"], *, tied: bool) -> None:
    """Write ``weights`` as safetensors files, floats as float16, without an output layer tied to the embedding.

    Raises:
        ValueError: a number exceeds the range of float16.
    """
    import torch
    from huggingface_hub import save_torch_state_dict

    state_dict = {}
    for name, tensor in weights.items():
        if tied and name == "lm_head.weight":
            continue
        state_dict[name] = (tensor.half() if tensor.is_floating_point() else tensor).detach().contiguous()
        if tensor.is_floating_point() and not bool(torch.isfinite(state_dict[name]).all()):
            raise ValueError(f"{name} has numbers outside the range of float16: use quant.backend=llmcompressor")
    target.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(state_dict, target, max_shard_size=SHARD_SIZE, metadata={"format": "pt"})


def finish(source: Path, target: Path, quantization: Mapping[str, Any], *, dtype: str | None = None) -> None:
    """Write ``config.json`` and copy the tokenizer and all other files of the source except its weights.

    Args:
        source: folder of the 16-bit checkpoint.
        target: folder with the finished weights.
        quantization: written as ``quantization_config``.
        dtype: the dtype of the layers left in 16 bits, if it differs from the source's.
    """
    for pattern in SIDE_FILES:
        for file in source.glob(pattern):
            if file.name not in NOT_COPIED:
                shutil.copyfile(file, target / file.name)
    config = json.loads((source / "config.json").read_text())
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    config["quantization_config"] = dict(quantization)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
