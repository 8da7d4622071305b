"""The one place that calls llm-compressor.

llm-compressor's own sets come from a hub; here calibration always arrives as token ids. Its presets for weight-only
schemes fix the group size at 128, so config groups are spelled out instead.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantize.methods import Architecture, Samples, WeightOnlyConfig

NEEDS = ("llmcompressor", "compressed_tensors", "transformers", "torch", "datasets")


def weight_only_groups(config: WeightOnlyConfig, architecture: Architecture) -> dict[str, Any]:
    """Return llm-compressor config groups for integer weights and 16-bit activations, fitted to the model."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    group_size = config.used_group_size(architecture)
    weights = QuantizationArgs(
        num_bits=config.bits,
        type="int",
        symmetric=config.used_symmetric(architecture),
        strategy="channel" if group_size is None else "group",
        group_size=group_size,
    )
    return {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}


@contextlib.contextmanager
def no_pinned_memory_without_accelerator() -> Iterator[None]:
    """Keep AWQ from pinning host memory where there is no accelerator: torch raises there, for no gain."""
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


def oneshot(source: Path, target: Path, recipe: Sequence[Any], *, samples: Samples) -> None:
    """Apply a recipe to the checkpoint in ``source`` and write the compressed result, tokenizer included.

    Args:
        source: folder of a 16-bit checkpoint.
        target: folder to write to.
        recipe: llm-compressor modifiers, in order.
        samples: calibration samples as token ids, used in this order; empty for methods that need none.
    """
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot as apply
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, local_files_only=True)
    if samples:
        rows = [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in samples]
        apply(
            model=model,
            recipe=list(recipe),
            dataset=Dataset.from_list(rows),
            num_calibration_samples=len(rows),
            max_seq_length=max(map(len, samples)),
            shuffle_calibration_samples=False,
        )
    else:
        apply(model=model, recipe=list(recipe))
    model.save_pretrained(target, save_compressed=True)
    AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(target)
