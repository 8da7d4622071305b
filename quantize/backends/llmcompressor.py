"""The default backend: llm-compressor, in the environment of quantbench's own ``quantize`` extra.

llm-compressor's own calibration sets come from a hub; here calibration is always passed as token ids. Its presets for
weight-only schemes fix the group size at 128, so config groups are specified explicitly instead.
"""

import contextlib
import importlib.util
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize.architecture import Architecture
from quantize.backend import Backend, QuantizeResult, Samples
from quantize.checkpoint import MANIFEST_NAME, own_code, weight_files
from quantize.memory import available_memory
from quantize.method import WeightOnlyConfig

if TYPE_CHECKING:
    from quantize.methods import autoround as autoround_method
    from quantize.methods import awq as awq_method
    from quantize.methods import gptq as gptq_method

PACKAGES = ("llmcompressor", "compressed_tensors", "auto_round", "transformers", "torch", "datasets")
"""Packages that it imports; all but ``datasets`` affect the result."""
EMBEDDINGS = "re:.*embed_tokens$"
"""Ignored layers: without a model's code, llm-compressor treats every matrix as a linear layer, even the embedding."""
RESERVE_BYTES = 5_000_000_000
"""Memory that a calibration needs in addition to the weights, which llm-compressor's own loader reserves too."""


def weight_only_scheme(config: WeightOnlyConfig, architecture: Architecture) -> Any:
    """Return llm-compressor's scheme for integer weights and 16-bit activations, adapted to the model."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    group_size = config.used_group_size(architecture)
    weights = QuantizationArgs(
        num_bits=config.bits,
        type="int",
        symmetric=config.used_symmetric(architecture),
        strategy="channel" if group_size is None else "group",
        group_size=group_size,
    )
    return QuantizationScheme(targets=["Linear"], weights=weights)


def rtn(
    config: WeightOnlyConfig, architecture: Architecture, source: Path, target: Path, samples: Samples
) -> QuantizeResult:
    """Round every weight to its nearest step, shard by shard."""
    without_data(source, target, weight_only_scheme(config, architecture), config.ignore)
    return QuantizeResult()


def gptq(
    config: "gptq_method.Config", architecture: Architecture, source: Path, target: Path, samples: Samples
) -> QuantizeResult:
    """Run GPTQ."""
    from llmcompressor.modifiers.quantization import GPTQModifier

    modifier = GPTQModifier(
        config_groups={"group_0": weight_only_scheme(config, architecture)},
        ignore=list(config.ignore),
        dampening_frac=config.damp,
        actorder=config.act_order,
    )
    return oneshot(source, target, [modifier], samples=samples)


def awq(
    config: "awq_method.Config", architecture: Architecture, source: Path, target: Path, samples: Samples
) -> QuantizeResult:
    """Run AWQ's search, then round."""
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    scheme = {"group_0": weight_only_scheme(config, architecture)}
    modifiers = [
        AWQModifier(n_grid=config.n_grid),
        QuantizationModifier(config_groups=scheme, ignore=list(config.ignore)),
    ]
    with no_pinned_memory_without_accelerator():
        return oneshot(source, target, modifiers, samples=samples)


def autoround(
    config: "autoround_method.Config", architecture: Architecture, source: Path, target: Path, samples: Samples
) -> QuantizeResult:
    """Run AutoRound."""
    import torch
    from llmcompressor.modifiers.autoround import AutoRoundModifier

    modifier = AutoRoundModifier(
        config_groups={"group_0": weight_only_scheme(config, architecture)},
        ignore=list(config.ignore),
        iters=config.iters,
        batch_size=config.batch_size,
        enable_torch_compile=torch.cuda.is_available(),
    )
    return oneshot(source, target, [modifier], samples=samples)


@contextlib.contextmanager
def no_pinned_memory_without_accelerator() -> Iterator[None]:
    """Keep AWQ from pinning host memory without an accelerator, where torch raises an error and nothing is gained."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.accelerator.is_available():
        yield
        return
    original = IntermediatesCache.pin_memory
    IntermediatesCache.pin_memory = lambda self, batch_index, input_names=None: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = original


def without_data(source: Path, target: Path, scheme: Any, ignore: Sequence[str]) -> None:
    """Quantize a checkpoint shard by shard, in the memory of one shard for any size of the model.

    Args:
        source: folder of a 16-bit checkpoint; everything but its weights and its manifest is copied.
        target: folder to write to.
        scheme: llm-compressor's scheme, or the name of one of its presets.
        ignore: layers left in 16 bits.
    """
    from llmcompressor import model_free_ptq

    model_free_ptq(str(source), str(target), scheme=scheme, ignore=[*ignore, EMBEDDINGS])
    (target / MANIFEST_NAME).unlink(missing_ok=True)


def as_native_fp8(folder: Path, block: int) -> None:
    """Rewrite a block FP8 checkpoint in the ``fp8`` container of Qwen's and DeepSeek's releases, shard by shard."""
    from safetensors.torch import load_file, save_file

    renamed = {".weight_scale": ".weight_scale_inv"}

    def rename(name: str) -> str:
        return next((name.removesuffix(old) + new for old, new in renamed.items() if name.endswith(old)), name)

    shapes: dict[str, int] = {}
    for file in weight_files(folder):
        tensors = {rename(name): tensor for name, tensor in load_file(file).items()}
        shapes |= {name: tensor.dim() for name, tensor in tensors.items()}
        written = file.with_suffix(".renamed")
        save_file(tensors, written, metadata={"format": "pt"})
        written.replace(file)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        contents = json.loads(index.read_text())
        contents["weight_map"] = {rename(name): shard for name, shard in contents["weight_map"].items()}
        index.write_text(json.dumps(contents, indent=1))
    config = json.loads((folder / "config.json").read_text())
    quantized = {name.removesuffix(".weight_scale_inv") for name in shapes}
    matrices = {name.removesuffix(".weight") for name, axes in shapes.items() if axes == 2 and name.endswith(".weight")}
    ignored = sorted(name for name in matrices - quantized if not name.endswith("embed_tokens")) or ["lm_head"]
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [block, block],
        "modules_to_not_convert": ignored,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _load(source: Path, offload: Path) -> Any:
    """Return the model in BF16 with experts as single layers, offloading what exceeds memory to folder ``offload``."""
    import torch
    from compressed_tensors.offload import load_offloaded_model
    from llmcompressor.utils import load_context
    from transformers import AutoModelForCausalLM

    # Loading experts directly into single layers makes transformers import all its models, some of which need
    # torchvision; without it they are split after loading.
    context = load_context if importlib.util.find_spec("torchvision") else load_offloaded_model
    where: dict[str, Any] = {}
    free = available_memory() - RESERVE_BYTES
    if sum(file.stat().st_size for file in weight_files(source)) > free:
        memory = {"cpu": max(free, RESERVE_BYTES // 10)}
        where = {"device_map": "auto_offload", "offload_folder": str(offload), "max_memory": memory}
    with context():
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.bfloat16, local_files_only=True, trust_remote_code=own_code(source), **where
        )


class ExpertsReached:
    """Counts the experts that the routers choose during calibration (in which all experts see every token)."""

    def __init__(self, model: Any) -> None:
        """Register a hook on every router of the model."""
        self.chosen: dict[str, set[int]] = {}
        self.experts = 0
        for name, module in model.named_modules():
            if name.endswith("mlp.gate") and hasattr(module, "num_experts"):
                self.chosen[name] = set()
                self.experts = int(module.num_experts)
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: self.chosen[name].update(output[2].unique().tolist())
                )

    def share(self) -> float | None:
        """Return the share of all experts that were chosen at least once; None for a model without experts."""
        if not self.chosen:
            return None
        return sum(map(len, self.chosen.values())) / (self.experts * len(self.chosen))


def oneshot(source: Path, target: Path, recipe: Sequence[Any], *, samples: Samples) -> QuantizeResult:
    """Apply a recipe to the checkpoint in ``source`` and write the compressed result with its tokenizer.

    Args:
        source: folder of a 16-bit checkpoint.
        target: folder to write to.
        recipe: llm-compressor modifiers, in order.
        samples: calibration samples as token ids, used in this order.

    Returns:
        The share of experts that calibration reached, if the model has any.
    """
    from datasets import Dataset
    from llmcompressor import oneshot as apply
    from transformers import AutoTokenizer

    offload = target.with_name(f"{target.name}.offload")
    model = _load(source, offload)
    reached = ExpertsReached(model)
    rows = [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in samples]
    apply(
        model=model,
        recipe=list(recipe),
        dataset=Dataset.from_list(rows),
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, samples)),
        shuffle_calibration_samples=False,
        moe_calibrate_all_experts=True,
    )
    model.save_pretrained(target, save_compressed=True)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=own_code(source))
    tokenizer.save_pretrained(target)
    for file in source.glob("*.py"):
        shutil.copy2(file, target)
    shutil.rmtree(offload, ignore_errors=True)
    return QuantizeResult(experts_reached=reached.share())


BACKEND = Backend("llmcompressor", PACKAGES, {"rtn": rtn, "gptq": gptq, "awq": awq, "autoround": autoround})
