"""Checkpoints in the native ``gptq`` and ``awq`` containers and NVIDIA ModelOpt's, written by very simple code.

The reader under test unpacks with shifts over whole tensors; this packs one number at a time.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack(values: "np.ndarray", bits: int, order: tuple[int, ...] | None = None) -> "np.ndarray":
    """Pack the unsigned integers of each row into 32-bit words, lowest bits first."""
    per_word = 32 // bits
    order = order or tuple(range(per_word))
    rows, columns = values.shape
    words = np.zeros((rows, columns // per_word), dtype=np.uint32)
    for row in range(rows):
        for column in range(columns):
            word, place = divmod(column, per_word)
            words[row, word] |= np.uint32(int(values[row, column]) << (bits * order.index(place)))
    return words.view(np.int32)


def rounded(weight: "np.ndarray", bits: int, group: int, symmetric: bool) -> tuple["np.ndarray", ...]:
    """Round a (rows, columns) matrix to nearest; return (codes, zero points, scales), the last two (groups, rows)."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows, columns // group, group)
    top = 2**bits - 1
    if symmetric:
        scale = np.maximum(np.abs(blocks).max(2) / (top // 2), 1e-6)
        zero = np.full_like(scale, 2 ** (bits - 1))
    else:
        low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
        scale = np.maximum((high - low) / top, 1e-6)
        zero = np.round(-low / scale)
    scale = scale.astype(np.float16).astype(np.float32)
    codes = np.clip(np.round(blocks / scale[:, :, None] + zero[:, :, None]), 0, top).reshape(rows, columns)
    return codes.astype(np.int64), zero.T.astype(np.int64), scale.T


def gptq_parts(weight: "np.ndarray", bits: int, group: int, *, shuffle: bool = False) -> dict[str, "np.ndarray"]:
    """Return a layer's tensors in the ``gptq`` container; ``shuffle`` assigns columns as ``desc_act`` does."""
    order = np.random.default_rng(0).permutation(weight.shape[1]) if shuffle else np.arange(weight.shape[1])
    codes, zeros, scales = rounded(weight[:, order], bits, group, symmetric=True)
    back = np.argsort(order)
    return {
        "qweight": np.ascontiguousarray(pack(codes[:, back], bits).T),
        "qzeros": pack(zeros - 1, bits),
        "scales": scales.astype(np.float16),
        "g_idx": (back // group).astype(np.int32),
    }


def awq_parts(weight: "np.ndarray", group: int) -> dict[str, "np.ndarray"]:
    """Return a layer's tensors in the ``awq`` container (gemm, 4 bits, with zero points)."""
    codes, zeros, scales = rounded(weight, 4, group, symmetric=False)
    return {
        "qweight": pack(np.ascontiguousarray(codes.T), 4, AWQ_ORDER),
        "qzeros": pack(zeros, 4, AWQ_ORDER),
        "scales": scales.astype(np.float16),
    }


def write_release(source: Path, target: Path, method: str, bits: int = 4, group: int = 64) -> None:
    """Write a release of a 16-bit checkpoint in its published form: weights in the native container."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "quantbench_manifest.json"))
    tensors: dict[str, Any] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if ".layers." in name and tensor.dim() == 2 and not name.endswith("mlp.gate.weight"):
            weight = tensor.float().numpy()
            parts = awq_parts(weight, group) if method == "awq" else gptq_parts(weight, bits, group)
            layer = name.removesuffix("weight")
            tensors |= {f"{layer}{part}": torch.from_numpy(value.copy()) for part, value in parts.items()}
        else:
            tensors[name] = tensor.half()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = (
        {"quant_method": "awq", "bits": bits, "group_size": group, "version": "gemm", "zero_point": True}
        if method == "awq"
        else {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": True, "desc_act": False}
    )
    (target / "config.json").write_text(json.dumps(config))


def modelopt_parts(weight: "np.ndarray", algorithm: str) -> "dict[str, Any]":
    """Return a layer's tensors as NVIDIA ModelOpt exports them: FP8 per tensor, or NVFP4 in groups of 16."""
    import torch

    matrix = torch.from_numpy(weight)
    if algorithm == "FP8":
        scale = matrix.abs().max() / 448
        return {
            "weight": (matrix / scale).to(torch.float8_e4m3fn),
            "weight_scale": scale,
            "input_scale": torch.tensor(8 / 448),
        }
    whole = matrix.abs().max() / (6 * 448)
    groups = matrix.unflatten(1, (-1, 16))
    scales = (groups.abs().amax(2) / 6 / whole).to(torch.float8_e4m3fn)
    values = groups / (scales.float() * whole)[:, :, None]
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = (values.abs().unsqueeze(-1) - table).abs().argmin(-1) + 8 * (values < 0)
    flat = codes.flatten(1).to(torch.uint8)
    return {
        "weight": flat[:, ::2] | flat[:, 1::2] << 4,
        "weight_scale": scales,
        "weight_scale_2": whole,
        "input_scale": torch.tensor(8 / (6 * 448)),
    }


def write_modelopt(
    source: Path, target: Path, algorithms: dict[str, str], *, in_config: bool = True, cache_scales: bool = True
) -> None:
    """Write a release of a 16-bit checkpoint as NVIDIA ModelOpt exports it.

    Args:
        source: the 16-bit checkpoint.
        target: folder to write to.
        algorithms: FP8 or NVFP4 by part of a layer's name; other layers stay in 16 bits.
        in_config: whether config.json has the quantization; otherwise a file of its own, as in older releases.
        cache_scales: whether it has scales of the KV cache.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", "quantbench_*"))
    tensors: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}
    ignored = []
    for name, tensor in load_file(source / "model.safetensors").items():
        layer = name.removesuffix(".weight")
        algorithm = next((algorithm for part, algorithm in algorithms.items() if part in name), None)
        if algorithm is None or tensor.dim() != 2 or name.endswith("mlp.gate.weight"):
            tensors[name] = tensor
            ignored += [layer] if tensor.dim() == 2 and "embed" not in name else []
            continue
        parts = modelopt_parts(tensor.float().numpy(), algorithm)
        tensors |= {f"{layer}.{part}": value.clone() for part, value in parts.items()}
        layers[layer] = {"quant_algo": algorithm, **({"group_size": 16} if algorithm == "NVFP4" else {})}
        if cache_scales and layer.endswith(("k_proj", "v_proj")):
            tensors[f"{layer}.{layer[-6]}_scale"] = torch.tensor(0.02)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    names = set(algorithms.values())
    fields: dict[str, Any] = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    if len(names) == 1:
        fields = {"quant_algo": names.pop(), "group_size": 16}
    fields["kv_cache_quant_algo"] = "FP8" if cache_scales else None
    if in_config:
        config = json.loads((target / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "modelopt", **fields, "ignore": ["lm_head", *ignored]}
        (target / "config.json").write_text(json.dumps(config))
    else:
        own = {"producer": {"name": "modelopt"}, "quantization": {**fields, "exclude_modules": ["lm_head", *ignored]}}
        (target / "hf_quant_config.json").write_text(json.dumps(own))
