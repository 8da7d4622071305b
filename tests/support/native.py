"""Checkpoints in the native ``gptq`` and ``awq`` containers, written by very simple code.

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
