"""Announce what a command is about to do and how long it may take.

Times come from this results folder's own earlier runs: the same variant, engine, workload and accuracy on the same
machine. Where there is none, none is made up; the least time is the physical limit's, where the device is known.
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
"""Newest runs that are looked through for a like one. Chosen: older ones rarely are like, and each has to be read."""


def _kind(variant: Variant, spec: RecordedSpec) -> tuple[object, ...]:
    """Return what two runs have in common that take about the same time."""
    accuracy = spec.accuracy
    return (variant, spec.engine, spec.workload, accuracy.tasks, accuracy.limit, accuracy.max_gen_toks)


def seconds_before(spec: RunSpec, earlier: Sequence[RunRecord]) -> float | None:
    """Return how long the longest like run took, in seconds; None if there is none.

    The longest, because a run that reused a checkpoint or a score says too little.
    """
    wanted = _kind(spec.variant, record_spec(spec))
    durations_s = [
        sum(seconds for stage, seconds in record.stage_durations_s.items() if stage in ("source", "quantize", "serve"))
        for record in earlier
        if not record.failures and _kind(record.variant, record.spec) == wanted
    ]
    return max(durations_s, default=None)


def _at_best(forecast: Forecast) -> str:
    """Return the least time of the cells on the device at hand, with ``; `` behind it; nothing if it is not known.

    Of the cells alone: they are measured anew in every run, checkpoints and scores may be there already.
    """
    if forecast.device is None or forecast.cells_best_s is None:
        return ""
    several = f"{devices(forecast)}, each " if forecast.fit and forecast.fit.devices > 1 else ""
    return f"cells at least {fmt.duration(forecast.cells_best_s)} on {several}{forecast.device.name}; "


def announce(specs: Sequence[RunSpec], *, resumed: bool) -> list[str]:
    """Return what each run of a command does, and how long all of them together take where every time is known.

    Args:
        specs: the runs.
        resumed: whether the same command was cut short before.
    """
    earlier = Store(specs[0].results_dir).newest(LOOK_BACK)
    lines = ["going on with this command, which was cut short"] if resumed else []
    known: list[float] = []
    for spec in specs:
        forecast = forecast_of(spec)
        seconds = seconds_before(spec, earlier)
        known += [seconds] if seconds is not None else []
        time = f"up to {seconds / 60:.1f} min, as before" if seconds is not None else "no earlier run to estimate from"
        lines.append(
            f"{spec.variant.model} {spec.variant.quant}: {len(forecast.cells)} cells of {spec.workload.trials} trials, "
            f"{len(spec.accuracy.tasks)} tasks; {_at_best(forecast)}{time}"
        )
        lines += [f"  {remark}" for remark in (forecast.fit.remarks if forecast.fit else ())]
    if len(specs) > 1 and len(known) == len(specs):
        lines.append(f"in all up to {sum(known) / 60:.1f} min")
    return lines
