"""Nights of a variant interleaved with its baseline."""

import math

import numpy as np

from bench.history.series import Measurement
from bench.records.record import Control, RunRecord, SpeedCell, Variant
from testkit.manifests import manifest
from testkit.records import native_cell, paced, record

ROUNDS = 5


def noisy(cell: SpeedCell, paces: list[float]) -> SpeedCell:
    """Return a cell whose trials take ``pace`` times as long, interleaved with others."""
    return paced(cell, *paces).model_copy(update={"interleaved": True})


def night(day: int, change: float = 0.0, *, hour: int = 23) -> RunRecord:
    """Return a run of a variant interleaved with its baseline; the whole night is slightly fast or slow."""
    rng = np.random.default_rng(100 * day + hour)
    whole = float(np.exp(rng.normal(0, 0.012)))
    paces = [[whole * float(np.exp(rng.normal(0, 0.004))) for _ in range(ROUNDS)] for _ in range(2)]
    own = noisy(native_cell("gptq-int4", 256), [pace * (1 + change) for pace in paces[0]])
    baseline = noisy(native_cell("bf16", 256), paces[1])
    control = Control(
        variant=Variant(model=own.variant.model, quant="bf16"),
        checkpoint=manifest("bf16"),
        engine_info={},
        server=None,
        cells=(baseline,),
    )
    at = f"2026-{1 + day // 28:02}-{1 + day % 28:02}T{hour}:00:00+00:00"
    return record(
        "gptq-int4", run_id=f"run-{day:03}-{hour}", session=f"session-{day:03}-{hour}", started_at=at,
        cells=(own,), control=control, scores=(),
    )  # fmt: skip


QUIET = (0.001, -0.001, 0.002, -0.002)


def run(day: int, change: float = 0.0, *, hour: int = 23, epoch: str = "a", problem: str | None = None) -> Measurement:
    """Return a run of the ``day``-th night with a little noise, interleaved with a control."""
    drift = math.exp(0.01 * math.sin(day))  # the whole night is faster or slower
    pace = math.exp(QUIET[day % len(QUIET)]) * (1 + change) * drift
    return Measurement(
        run_id=f"run-{day:03}-{hour}",
        started_at=f"2026-{1 + day // 28:02}-{1 + day % 28:02}T{hour:02}:00:00+00:00",
        epoch=epoch,
        value=None if problem else math.log(50 * pace / (40 * drift)),
        problem=problem,
    )
