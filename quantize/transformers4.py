"""Read a checkpoint folder that transformers 5 saved with transformers 4.

Both read the same weights, but ``config.json`` differs: transformers 4 ignores unknown fields, and would silently use
its own defaults for the rotary base and the number of experts. So the fields are translated, and the values that it
reads are compared with the intended ones.
"""

import json
from pathlib import Path
from typing import Any


def translate(config: dict[str, Any]) -> dict[str, Any]:
    """Return a ``config.json`` of transformers 5 with the fields of transformers 4; one of transformers 4 is unchanged.

    Raises:
        ValueError: transformers 4 cannot express a field.
    """
    translated = dict(config)
    if "dtype" in translated:
        translated["torch_dtype"] = translated.pop("dtype")
    if "num_local_experts" in translated and translated.get("model_type") == "qwen3_moe":
        translated["num_experts"] = translated.pop("num_local_experts")
    rope = translated.pop("rope_parameters", None)
    if rope is None:
        return translated
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(
            "config.json has a rotary embedding for each kind of layer: this backend cannot read the model"
        )
    scaling = dict(rope)
    base = scaling.pop("rope_theta", translated.get("rope_theta"))
    if base is None:
        raise ValueError("config.json has rope_parameters without a rope_theta: the model cannot be read safely")
    translated["rope_theta"] = base
    if "partial_rotary_factor" in scaling:
        translated["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    translated["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    return translated


def load(source: Path) -> Any:
    """Return the model in ``source`` on the CPU, ready for calibration.

    It is in float16 for a GPU, and in float32 for a CPU, where float16 is slow.

    Args:
        source: folder of a 16-bit checkpoint, saved by transformers 4 or 5.

    Raises:
        ValueError: transformers 4 does not support the model, or does not adopt the values of ``config.json``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = translate(json.loads((source / "config.json").read_text()))
    kind = fields.pop("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"this backend's transformers 4 does not know model_type {kind}: use quant.backend=llmcompressor"
        )
    dtype = torch.float16 if torch.cuda.is_available() else torch.float32
    fields["torch_dtype"] = str(dtype).removeprefix("torch.")
    config = AutoConfig.for_model(kind, **fields)
    for name in ("rope_theta", "rope_scaling", "num_experts", "head_dim", "tie_word_embeddings"):
        if fields.get(name) is not None and getattr(config, name, None) != fields[name]:
            raise ValueError(f"transformers 4 reads {name} as {getattr(config, name, None)}, not {fields[name]}")
    config.use_cache = False
    model, report = AutoModelForCausalLM.from_pretrained(
        source, config=config, torch_dtype=dtype, local_files_only=True, output_loading_info=True
    )
    unread = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if unread:
        raise ValueError(f"transformers 4 does not read {unread[0]} of this model, and {len(unread) - 1} more")
    model.eval()
    return model
