"""Read a model's shapes from its config.json, without its weights."""

from typing import Any

from quantize.architecture import Architecture

FAMILIES: dict[str, dict[str, int | None]] = {
    "llama": {"num_key_value_heads": None, "head_dim": None},
    "mistral": {"head_dim": None},
    "qwen2": {"head_dim": None},
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"head_dim": None},
}
"""Model types that :class:`Architecture` can describe, with the defaults of fields that their config.json may omit.

None means one key and value head per head, and the hidden size divided by the number of heads.
"""


def _field(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int):
        raise ValueError(f"config.json has no number for {name}")
    return value


def _experts(config: dict[str, Any]) -> dict[str, int]:
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ValueError("config.json mixes layers with and without experts, which is not supported")
    return {
        "experts": _field(config, "num_local_experts" if "num_local_experts" in config else "num_experts"),
        "experts_per_token": _field(config, "num_experts_per_tok"),
        "moe_intermediate_size": _field(config, "moe_intermediate_size"),
    }


def describe(config: dict[str, Any]) -> tuple[Architecture, int]:
    """Return (shapes, context length in tokens) of the model of ``config``, a parsed config.json.

    Raises:
        ValueError: the model is of an unsupported type, or a field is missing; one line.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"config.json is of model type '{family}'; supported are {', '.join(FAMILIES)}")
    complete = {**FAMILIES[family], **{name: value for name, value in config.items() if value is not None}}
    hidden_size, heads = _field(complete, "hidden_size"), _field(complete, "num_attention_heads")
    architecture = Architecture(
        layers=_field(complete, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=_field(complete, "intermediate_size"),
        heads=heads,
        kv_heads=heads if complete.get("num_key_value_heads", 0) is None else _field(complete, "num_key_value_heads"),
        head_dim=hidden_size // heads if complete["head_dim"] is None else _field(complete, "head_dim"),
        vocab_size=_field(complete, "vocab_size"),
        tied_embeddings=bool(complete.get("tie_word_embeddings", False)),
        # Llama and Qwen3 then also add a bias to the output projection, which has too few weights for a field.
        qkv_bias=family == "qwen2" or (family != "mistral" and bool(complete.get("attention_bias", False))),
        qk_norm=family in ("qwen3", "qwen3_moe"),
        **(_experts(complete) if family == "qwen3_moe" else {}),
    )
    return architecture, _field(complete, "max_position_embeddings")
