"""GPTQModel 7.6: the maintained successor of AutoGPTQ and AutoAWQ, which writes both native containers.

Its compiled packer takes a minute or more to build, so the Python packer is used. The library itself rounds experts
that see too few calibration tokens to nearest.
"""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize import native
from quantize.architecture import Architecture
from quantize.backend import Backend, QuantizeResult, Samples
from quantize.checkpoint import tensors
from quantize.proof import is_ignored, linear_layers

if TYPE_CHECKING:
    from quantize.methods.awq import Config as AwqMethod
    from quantize.methods.gptq import Config as GptqMethod

PACKAGES = ("gptqmodel", "transformers", "torch")
SETTINGS = {
    "GPTQMODEL_DISABLE_PACK_EXT": "1",
    "GPTQMODEL_CPU_WORKERS": str(max(2, min(12, (os.cpu_count() or 1) // 2))),
    "HF_HUB_OFFLINE": "1",
}
"""Read by the library on import; with fewer than two workers it fails on a machine with two cores."""
LEFT_OVER = ("quantize_config.json", "quant_log.csv")
"""Files that the library adds to the checkpoint: a copy of settings in ``config.json``, and times."""


def gptq(
    config: "GptqMethod", architecture: Architecture, source: Path, target: Path, samples: Samples
) -> QuantizeResult:
    """Run GPTQ and write the ``gptq`` container.

    Raises:
        ValueError: the container does not support the config.
    """
    native.check_gptq(config)
    settings = {
        "bits": config.bits,
        "group_size": config.used_group_size(architecture) or -1,
        "sym": True,
        "damp_percent": config.damp,
        "desc_act": config.act_order is not None,
        "static_groups": config.act_order == "static",
        "act_group_aware": False,
    }
    # With static groups the file's columns are in the model's own order, so loading reorders nothing.
    return _run(config, source, target, samples, settings=settings, more={"desc_act": config.act_order == "group"})


def awq(
    config: "AwqMethod", architecture: Architecture, source: Path, target: Path, samples: Samples
) -> QuantizeResult:
    """Run AWQ and write the ``awq`` container, version ``gemm``.

    Raises:
        ValueError: the library or the container does not support the config.
    """
    settings = {
        "bits": 4,
        "group_size": native.check_awq(config, architecture),
        "method": "awq",
        "format": "gemm",
        "sym": False,
        "desc_act": False,
    }
    return _run(config, source, target, samples, settings=settings, more={"version": "gemm", "zero_point": True})


def _run(
    config: native.NativeConfig,
    source: Path,
    target: Path,
    samples: Samples,
    *,
    settings: dict[str, Any],
    more: dict[str, Any],
) -> QuantizeResult:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    cuda = torch.cuda.is_available()
    library_config = QuantizeConfig(
        **settings,
        dynamic={f"-:^{re.escape(name)}$": {} for name in unquantized_layers(source, config.ignore)} or None,
        device="cuda" if cuda else "cpu",
        offload_to_disk=False,
    )
    model = GPTQModel.load(str(source), library_config, trust_remote_code=False)
    routers = watch_routers(model.model)
    rows = [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in samples]
    packer = BACKEND.AWQ_TORCH if settings.get("method") == "awq" else BACKEND.GPTQ_TORCH
    model.quantize(
        rows,
        batch_size=1,
        calibration_sort=None,
        calibration_data_min_length=1,
        backend=BACKEND.AUTO if cuda else packer,
    )
    model.save(str(target))

    quantization = json.loads((target / "config.json").read_text())["quantization_config"]
    for name in LEFT_OVER:
        (target / name).unlink(missing_ok=True)
    native.finish(source, target, {**quantization, **more})
    shares = [len(experts) / count for experts, count in routers]
    return QuantizeResult(experts_reached=sum(shares) / len(shares) if shares else None)


def watch_routers(model: Any) -> list[tuple[set[int], int]]:
    """Return (experts chosen so far, filled as the model runs; number of experts) of each router of the model."""
    import torch

    routers: list[tuple[set[int], int]] = []
    for name, module in model.named_modules():
        count = getattr(module, "num_experts", None)
        if name.endswith("mlp.gate") and count:
            chosen: set[int] = set()
            routers.append((chosen, int(count)))

            def note(_: Any, inputs: Any, output: Any, chosen: set[int] = chosen) -> None:
                chosen.update(torch.as_tensor(output[2]).unique().tolist())

            module.register_forward_hook(note)
    return routers


def unquantized_layers(source: Path, ignore: tuple[str, ...]) -> list[str]:
    """Return the layers to leave in 16 bits that the library would quantize by default (no output layer or router)."""
    names = linear_layers(list(tensors(source)), ())
    kinds = tuple(f".{kind}" for stage in native.STAGES for kind in stage)
    return [name for name in names if name.endswith(kinds) and is_ignored(name, ignore)]


BACKEND = Backend("gptqmodel", PACKAGES, {"gptq": gptq, "awq": awq})
