"""Announce what a command will do and how long it may take.

Times come from earlier runs in the same results folder with the same variant, engine, workload and accuracy. Without
such a run there is no estimate, only the least time by the physical limit, if the device is known.
"""

from collections.abc import Sequence

from bench import format as fmt
from bench.config.spec import RunSpec, record_spec
from bench.plan.forecast import Forecast, forecast_of
from bench.plan.table import devices
from bench.records.record import RunRecord, Variant
from bench.records.spec import RecordedSpec
from bench.records.store import Store

LOOK_BACK = 50
"""Newest runs searched for a similar one. Chosen: older runs rarely match, and each record has to be read."""


def _kind(variant: Variant, spec: RecordedSpec) -> tuple[object, ...]:
    """Return what must be equal for two runs to take about the same time."""
    accuracy = spec.accuracy
    return (variant, spec.engine, spec.workload, accuracy.tasks, accuracy.limit, accuracy.max_gen_toks)


def seconds_before(spec: RunSpec, earlier: Sequence[RunRecord]) -> float | None:
    """Return the duration of the longest similar run, in seconds; None if there is none.

    The longest, because a run that reused a checkpoint or a score was shorter.
    """
    kind = _kind(spec.variant, record_spec(spec))
    durations_s = [
        sum(seconds for stage, seconds in record.stage_durations_s.items() if stage in ("source", "quantize", "serve"))
        for record in earlier
        if not record.failures and _kind(record.variant, record.spec) == kind
    ]
    return max(durations_s, default=None)


def _at_best(forecast: Forecast) -> str:
    """Return the least time of the cells on this machine's device, followed by ``; ``; empty if it is unknown.

    Only the cells count: they are measured in every run, whereas checkpoints and scores may be reused.
    """
    if forecast.device is None or forecast.cells_best_s is None:
        return ""
    several = f"{devices(forecast)}, each " if forecast.fit and forecast.fit.devices > 1 else ""
    return f"cells at least {fmt.duration(forecast.cells_best_s)} on {several}{forecast.device.name}; "


def announce(specs: Sequence[RunSpec], *, resumed: bool) -> list[str]:
    """Return a line for each run of a command, and their total duration if all are known.

    Args:
        specs: the runs.
        resumed: whether the command resumes an interrupted one.
    """
    earlier = Store(specs[0].results_dir).newest(LOOK_BACK)
    lines = ["resuming the interrupted command"] if resumed else []
    durations_s: list[float] = []
    for spec in specs:
        forecast = forecast_of(spec)
        seconds = seconds_before(spec, earlier)
        durations_s += [seconds] if seconds is not None else []
        time = f"up to {seconds / 60:.1f} min, as before" if seconds is not None else "no earlier run to estimate from"
        lines.append(
            f"{spec.variant.model} {spec.variant.quant}: {len(forecast.cells)} cells of {spec.workload.trials} trials, "
            f"{len(spec.accuracy.tasks)} tasks; {_at_best(forecast)}{time}"
        )
        lines += [f"  {remark}" for remark in (forecast.fit.remarks if forecast.fit else ())]
    if len(specs) > 1 and len(durations_s) == len(specs):
        lines.append(f"total: up to {sum(durations_s) / 60:.1f} min")
    return lines
