"""Records of sweeps over loads, with known times."""

from typing import Any

from bench.records.record import Objective, RequestTrace, RunRecord, SpeedCell
from testkit.records import cell, record

OBJECTIVE = Objective(ttft_s=0.5, tpot_s=0.1)


def loaded(quant: str, at_once: int, **changes: Any) -> SpeedCell:
    """Return a cell whose requests take longer with more concurrency; beyond 8 throughput no longer grows."""
    measured = cell(quant, 256, concurrency=at_once, status="ok")
    factor = 1 + at_once / 8

    def slower(trace: RequestTrace) -> RequestTrace:
        times = tuple(round(at * factor) for at in trace.event_ns)
        return trace.model_copy(update={"event_ns": times, "end_ns": times[-1] + 1})

    trials = tuple(
        trial.model_copy(update={"requests": tuple(map(slower, trial.requests)), "saturated": changes.get("saturated")})
        for trial in measured.trials
    )
    fields = {name: value for name, value in changes.items() if name != "saturated"}
    return measured.model_copy(update={"trials": trials, **fields})


def load_records(**changes: Any) -> list[RunRecord]:
    """Return BF16 and a variant under six loads each."""
    return [
        record(quant, cells=tuple(loaded(quant, n, n_requests=4 * n, **changes) for n in (1, 2, 4, 8, 16, 32)))
        for quant in ("bf16", "fp8")
    ]
