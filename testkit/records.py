"""Records like those of real runs, built from the real types. The same arguments give the same record."""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.records.record import (
    Control,
    Device,
    Environment,
    Failure,
    RequestTrace,
    RunRecord,
    ServerFacts,
    SpeedCell,
    Status,
    TaskScore,
    Trial,
    Variant,
)
from bench.records.spec import (
    RecordedAccuracy,
    RecordedContext,
    RecordedEngine,
    RecordedModel,
    RecordedQuant,
    RecordedSpec,
)
from bench.records.store import Store
from quantize.architecture import Architecture
from quantize.checkpoint import CalibrationFact
from quantize.key import Key, sha256_text
from quantize.texts import HeldoutConfig
from testkit.manifests import DENSE, MOE_MODEL, layer_errors, manifest
from testkit.scores import EMULATED_REASON, MODEL, TASKS, score

QUANTS = ("bf16", "fp8", "gptq-int8", "gptq-int4", "awq-int4")
LENGTHS = (1, 256, 1024)
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


def request(input_len: int, output_len: int, slowdown: float, rng: random.Random) -> RequestTrace:
    """Return a stream with one token per event, at the pace of a small CPU server."""
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
    """Return a cell; its default status is the one of the transformers engine for the variant."""
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


def recorded_spec(
    quant: str = "bf16",
    model: str = MODEL,
    *,
    architecture: Architecture | None = None,
    margin: float = 0.01,
    engine: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
) -> RecordedSpec:
    """Return the spec of a run."""
    return RecordedSpec(
        model=RecordedModel(title=model, source={}, context_length=None, architecture=architecture),
        quant=RecordedQuant(name=quant, method=quant, config={}, release=None),
        baseline=None,
        context=RecordedContext(name="native", length=None),
        heldout=HeldoutConfig(set="embedded", n_samples=None, max_seq_len=256),
        engine=RecordedEngine(name="transformers", config=dict(engine), dtype=engine.get("dtype")),
        workload={},
        accuracy=RecordedAccuracy(margin=margin, tasks=TASKS, limit=None, max_gen_toks=None, settings={}),
        seed=seed,
    )


def record(quant: str = "bf16", model: str = MODEL, **changes: Any) -> RunRecord:
    """Return a finished run; ``changes`` replaces any fields."""
    values: dict[str, Any] = {
        "run_id": f"20261124T020000-{model}-{quant}-1a2b3c4d",
        "session": "20261124T020000-4242",
        "variant": Variant(model=model, quant=quant),
        "key": sha256_text(f"{model} {quant}"),
        "command": (f"+model={model}", f"quant={quant}", "experiment=demo"),
        "spec": recorded_spec(quant, model),
        "environment": environment(),
        "engine": "transformers",
        "engine_info": {"version": "quantbench 0.1.0", "dtype": "bfloat16", "max_running_requests": 16},
        "checkpoint": manifest(quant, model),
        "cells": tuple(cell(quant, length, model=model) for length in LENGTHS),
        "scores": tuple(score(quant, task, model=model) for task in TASKS),
        "failures": (),
        "stage_durations_s": {"source": 0.02, "quantize": 46.1, "serve": 241.5, "speed": 88.4, "accuracy": 131.0},
        "log": (
            f"source weights of {model}: reused (same key 0c1d2e3f4a5b, published 2026-11-24T01:12:44+00:00)",
            f"{quant} of {model}: building (no checkpoint with this key)",
        ),
        "started_at": "2026-11-24T02:00:00+00:00",
        "finished_at": "2026-11-24T02:06:31+00:00",
    }
    return RunRecord.model_validate(values | changes)


def keep(results: Path, run: RunRecord) -> Path:
    """Store a run as an ended one and return its folder."""
    folder = Store(results).create(run.run_id)
    folder.begin(run)
    for cell_ in run.cells:
        folder.add_cell(cell_)
    for score_ in run.scores:
        folder.add_score(score_)
    folder.finish(run)
    folder.release()
    return folder.path


def demo_records() -> list[RunRecord]:
    """Return the records of ``make demo``: every core variant, fully measured."""
    return [record(quant) for quant in QUANTS]


ARCHITECTURE = {
    "layers": 30, "hidden_size": 576, "intermediate_size": 1536, "heads": 9, "kv_heads": 3, "head_dim": 64,
    "vocab_size": 49152, "tied_embeddings": True,
}  # fmt: skip
"""Shapes of ``MODEL``."""
NATIVE = {"bf16": 1.0, "fp8": 1 / 1.4, "gptq-int8": 1 / 1.3, "gptq-int4": 1 / 1.6, "awq-int4": 1 / 1.5}
"""Pace of kernels that compute with quantized weights."""


def device(**changes: Any) -> Device:
    """Return a measured CPU, faster than every record in this module."""
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
    """Return the facts of a server on one device."""
    values: dict[str, Any] = {
        "version": "0.32.0",
        "kv_capacity_tokens": 65_536,
        "max_context_tokens": 8192,
        "weights_bytes": 269_000_000,
        "kv_cache_dtype": "auto",
        "devices": 1,
    }
    return ServerFacts.model_validate(values | changes)


def paced(cell: SpeedCell, *paces: float) -> SpeedCell:
    """Return a cell in which everything takes ``pace`` times as long.

    A single pace applies to all its trials; several paces give a trial each, all based on the first.
    """
    trials = cell.trials if len(paces) == 1 else cell.trials[:1] * len(paces)
    factors = paces * len(trials) if len(paces) == 1 else paces
    slower = (
        trial.model_copy(
            update={
                "requests": tuple(
                    trace.model_copy(
                        update={
                            "event_ns": tuple(round(at * factor) for at in trace.event_ns),
                            "end_ns": round(trace.end_ns * factor),
                        }
                    )
                    for trace in trial.requests
                )
            }
        )
        for trial, factor in zip(trials, factors, strict=True)
    )
    return cell.model_copy(update={"trials": tuple(slower)})


def native_cell(quant: str, input_len: int, **changes: Any) -> SpeedCell:
    """Return an ok cell of kernels that compute with quantized weights; ``changes`` replaces fields of the cell."""
    plain = cell("bf16", input_len, output_len=changes.pop("output_len", 32), concurrency=changes.pop("concurrency", 1))
    variant = Variant(model=MODEL, quant=quant)
    return paced(plain, NATIVE[quant]).model_copy(update={"variant": variant, **changes})


def native_record(quant: str = "bf16", **changes: Any) -> RunRecord:
    """Return a run on an engine with quantized kernels, whose device and shapes are known."""
    values: dict[str, Any] = {
        "spec": recorded_spec(quant, architecture=Architecture(**ARCHITECTURE)),
        "engine": "vllm",
        "server": server(),
        "device": device(),
        "cells": tuple(native_cell(quant, length) for length in LENGTHS),
    }
    return record(quant, **(values | changes))


def native_records() -> list[RunRecord]:
    """Return every core variant on an engine with quantized kernels."""
    return [native_record(quant) for quant in QUANTS]


@cache
def _unharmed_score(quant: str, task: str) -> TaskScore:
    return score(quant, task, damage=0.0, per_subject=500, status="ok")


def unharmed(quant: str, margin: float = 0.01, tasks: Sequence[str] = ("mini-mmlu",), **changes: Any) -> RunRecord:
    """Return a native run with the same answers as BF16, on enough items to show it, that declares a margin."""
    scores = tuple(_unharmed_score(quant, task) for task in tasks)
    spec = recorded_spec(quant, architecture=Architecture(**ARCHITECTURE), margin=margin)
    return native_record(quant, **{"scores": scores, "spec": spec, **changes})


def with_score(run: RunRecord, task: str, **changes: Any) -> RunRecord:
    """Return a run with changed fields in the score of one task."""
    scores = (each.model_copy(update=changes) if each.task == task else each for each in run.scores)
    return run.model_copy(update={"scores": tuple(scores)})


def controlled_record(quant: str = "fp8", **changes: Any) -> RunRecord:
    """Return a run whose baseline was served with it, with interleaved trials."""
    base = tuple(native_cell("bf16", length, interleaved=True) for length in LENGTHS)
    control = Control(
        variant=Variant(model=MODEL, quant="bf16"),
        checkpoint=manifest("bf16"),
        engine_info={},
        server=server(),
        cells=base,
    )
    cells = tuple(native_cell(quant, length, interleaved=True) for length in LENGTHS)
    return native_record(quant, **{"cells": cells, "control": control, **changes})


def moe_records() -> list[RunRecord]:
    """Return runs of a model with experts, calibrated on chats; one of them is an unchanged release."""
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
        build_s=3.2,
    )
    quantized = manifest("gptq-int4", MOE_MODEL, provenance=source, calibration=chats)
    return [
        record("bf16", MOE_MODEL, checkpoint=manifest("bf16", MOE_MODEL, provenance=source)),
        record("fp8", MOE_MODEL, checkpoint=release),
        record("gptq-int4", MOE_MODEL, checkpoint=quantized),
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
    """Return records with every status and every kind of failure."""
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
