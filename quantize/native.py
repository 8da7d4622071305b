"""What backends share that write the native ``gptq`` and ``awq`` containers, as Qwen's own releases have them.

``config.json`` and everything beside the weights come from the source, so that today's engines read the checkpoint as
they read its source; the library's part is the weights and ``quantization_config``.
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
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model")
NOT_COPIED = (MANIFEST_NAME, "config.json", "model.safetensors.index.json")
LAYERS = "model.layers."
STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers of a decoder layer that see the same input, in the order in which they are computed."""
AWQ_GRID = 20
"""Scales that AutoAWQ and its descendants try; a constant in their code."""


class NativeConfig(Protocol):
    """What is asked of a method's config here."""

    @property
    def bits(self) -> int: ...  # noqa: D102
    @property
    def symmetric(self) -> bool: ...  # noqa: D102
    @property
    def ignore(self) -> tuple[str, ...]: ...  # noqa: D102
    def used_group_size(self, architecture: Architecture) -> int | None:  # noqa: D102
        ...


class AwqConfig(NativeConfig, Protocol):
    """What is asked of AWQ's config here."""

    @property
    def n_grid(self) -> int: ...  # noqa: D102


def check_gptq(config: NativeConfig) -> None:
    """Check that the ``gptq`` container can hold what is asked for.

    Raises:
        ValueError: it cannot.
    """
    if not config.symmetric:
        raise ValueError(
            "the gptq container stores zero points less one, so a zero point of 0 would be lost: "
            "use quant.symmetric=true, or quant.backend=llmcompressor"
        )


def check_awq(config: AwqConfig, architecture: Architecture) -> int:
    """Check that the ``awq`` container and the libraries that write it can do what is asked for; return the group size.

    Raises:
        ValueError: they cannot.
    """
    if config.bits != 4:
        raise ValueError(f"the awq container holds 4 bits, not {config.bits}: use quant.backend=llmcompressor")
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
    """Return (linear layers to quantize, those to leave alone), by their names below a decoder layer.

    The first come in lists of layers that see the same input, in the order in which a decoder layer computes them.

    Raises:
        ValueError: a layer would be quantized in one decoder layer and not in another, or is of an unknown kind.
    """
    facts = list(tensors(source))
    wanted, left = set(), set()
    for name in linear_layers(facts, ()):
        number, _, inner = name.removeprefix(LAYERS).partition(".")
        inside = name.startswith(LAYERS) and number.isdecimal()
        if is_ignored(name, ignore):
            left |= {inner} if inside else set()
        elif inside and any(inner.endswith(f".{kind}") for stage in STAGES for kind in stage):
            wanted.add(inner)
        else:
            raise ValueError(
                f"this backend knows no layer like {name}: add it to quant.ignore, or change quant.backend"
            )
    both = sorted(wanted & left)
    if both:
        raise ValueError(
            f"this backend treats every decoder layer alike, and quant.ignore names {both[0]} in some only: "
            "ignore it in all, or use quant.backend=llmcompressor"
        )
    stages = [sorted(name for name in wanted if name.rpartition(".")[2] in stage) for stage in STAGES]
    return [stage for stage in stages if stage], sorted(left)


def save_float16(target: Path, weights: Mapping[str, "torch.Tensor"], *, tied: bool) -> None:
    """Write ``weights`` as safetensors files, floats as float16, without an output layer that is the embedding itself.

    Raises:
        ValueError: a number does not fit into float16.
    """
    import torch
    from huggingface_hub import save_torch_state_dict

    kept = {}
    for name, tensor in weights.items():
        if tied and name == "lm_head.weight":
            continue
        kept[name] = (tensor.half() if tensor.is_floating_point() else tensor).detach().contiguous()
        if tensor.is_floating_point() and not bool(torch.isfinite(kept[name]).all()):
            raise ValueError(f"{name} holds numbers that do not fit into float16: use quant.backend=llmcompressor")
    target.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(kept, target, max_shard_size=SHARD_SIZE, metadata={"format": "pt"})


def finish(source: Path, target: Path, quantization: Mapping[str, Any], *, dtype: str | None = None) -> None:
    """Write ``config.json`` and copy the tokenizer and all else that lies beside the weights of the source.

    Args:
        source: folder of the 16-bit checkpoint.
        target: folder with the finished weights.
        quantization: what becomes ``quantization_config``.
        dtype: the dtype of the layers left in 16 bits, where it is not the source's.
    """
    for pattern in BESIDE:
        for file in source.glob(pattern):
            if file.name not in NOT_COPIED:
                shutil.copyfile(file, target / file.name)
    config = json.loads((source / "config.json").read_text())
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    config["quantization_config"] = dict(quantization)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
