"""Forecast of accuracy tasks: items, prompt tokens and least time. No data is read."""

import functools
import math
import tomllib
from pathlib import Path

from pydantic import PositiveInt

from bench.accuracy.data import Benchmark, benchmarks
from bench.analysis.baseline import BASELINE
from bench.config.spec import AccuracySpec, RunSpec
from bench.limits.roofline import linear_flops, peak
from bench.plan.placement import Fit, ServedWeights
from bench.records.record import Device
from quantize.key import Frozen

FILE = Path(__file__).resolve().parent / "tasks.toml"


class Assumption(Frozen):
    """Assumed sizes of a task; ``tasks.toml`` explains the fields."""

    items: PositiveInt | None = None
    examples: int | None = None
    tokens: PositiveInt | None = None
    own_tokens: PositiveInt | None = None
    source: str | None = None


class TaskForecast(Frozen):
    """The forecast of one accuracy task."""

    task: str
    items: int | None
    """None if unknown in advance."""
    prompt_tokens: int | None
    """Prompt tokens to compute, with shared prefixes counted once; None if unknown."""
    best_s: float | None
    """Least time to compute them."""


@functools.cache
def assumptions() -> dict[str, Assumption]:
    """Return the assumed sizes of each task."""
    return {name: Assumption.model_validate(fields) for name, fields in tomllib.loads(FILE.read_text()).items()}


def _items(accuracy: AccuracySpec, task: str, known: Benchmark | None) -> int | None:
    if known is None:
        items = assumptions()[task].items if task in assumptions() else None
        return items if items is None or accuracy.limit is None else min(items, max(accuracy.limit, accuracy.at_least))
    if accuracy.limit is None:
        return known.items
    per_leaf = max(accuracy.limit, math.ceil(accuracy.at_least / len(known.leaves)))
    return sum(min(per_leaf, leaf.items) for leaf in known.leaves.values())


def task_of(spec: RunSpec, task: str, model: ServedWeights, device: Device | None, fit: Fit | None) -> TaskForecast:
    """Return the forecast of one task."""
    known, lengths = benchmarks().get(task), assumptions().get(task)
    items = _items(spec.accuracy, task, known)
    tokens = None
    examples = spec.accuracy.fewshot_of(task)
    if known and items and lengths and lengths.tokens and lengths.own_tokens and examples == lengths.examples:
        tokens = items * lengths.own_tokens + len(known.leaves) * (lengths.tokens - lengths.own_tokens)
        tokens *= 2 if spec.accuracy.noise_floor and spec.quant.name == BASELINE else 1
    best = None
    if tokens is not None and device is not None and fit is not None and fit.loads:
        best = tokens * linear_flops(spec.model.architecture) / peak(device, model.multiplied_in) / fit.devices
    return TaskForecast(task=task, items=items, prompt_tokens=tokens, best_s=best)
