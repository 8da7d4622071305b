"""Published figures, and runs that measure the same cells and tasks."""

from typing import Any

from bench.published.figures import PublishedCell, architecture_of, cells
from bench.records.record import Metric, RunRecord, TaskScore, Variant
from quantize.architecture import Architecture
from testkit.records import device, native_cell, record, recorded_spec, server
from testkit.scores import score


def published(model: str, label: str, engine: str, input_len: int) -> PublishedCell:
    """Return the only cell of that name."""
    [match] = [
        cell
        for cell in cells()
        if (cell.model, cell.label, cell.engine, cell.input_len) == (model, label, engine, input_len)
    ]
    return match


def shapes(model: str) -> Architecture:
    """Return the shapes of a model that is offered."""
    architecture = architecture_of(model)
    assert architecture is not None
    return architecture


def measured(speed: float, *, trials: int = 3, quant: str = "bf16", **changes: Any) -> RunRecord:
    """Return a run of Qwen3-8B on an H20 at input 1 with ``speed`` tokens per second as Qwen counts them."""
    native = native_cell("bf16", 1, output_len=2048)
    factor = (2049 / speed) / (native.trials[0].requests[0].event_ns[-1] / 1e9)
    waves = tuple(
        trial.model_copy(
            update={
                "requests": tuple(
                    trace.model_copy(update={"event_ns": tuple(round(at * factor) for at in trace.event_ns)})
                    for trace in trial.requests
                )
            }
        )
        for trial in native.trials[:1] * trials
    )
    variant = Variant(model="qwen3-8b", quant=quant)
    cell = native.model_copy(update={"trials": waves, "variant": variant, "engine": "sglang"})
    values: dict[str, Any] = {
        "engine": "sglang",
        "cells": (cell,),
        "scores": (),
        "device": device(
            name="NVIDIA H20 96GB", bandwidth_bytes_per_s=4e12, bandwidth_by_size=(), flops_per_s={"bf16": 148e12}
        ),
        "server": server(version="0.5.23"),
        "spec": recorded_spec(quant, "qwen3-8b", architecture=shapes("qwen3-8b")),
    }
    return record(quant, "qwen3-8b", **(values | changes))


H100 = device(name="NVIDIA H100 SXM", bandwidth_bytes_per_s=3.35e12, bandwidth_by_size=(), flops_per_s={"bf16": 989e12})


def ours(value: float = 0.705, **changes: Any) -> TaskScore:
    """Return a score of the whole MMLU."""
    base = score("bf16", "mini-mmlu", model="qwen2-7b-instruct")
    values: dict[str, Any] = {
        "task": "mmlu", "n_items": 14042, "num_fewshot": 5, "metrics": (Metric(name="acc", value=value, stderr=0.0038),)
    }  # fmt: skip
    return base.model_copy(update=values | changes)
