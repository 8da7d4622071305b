"""What a command is about to do and how long it may take, told before it starts.

Times come from this results folder's own earlier runs: the same variant, engine, workload and accuracy on the same
machine. Where there is none, none is made up.
"""

from collections.abc import Sequence

from bench.plan import shapes_of
from bench.record import RunRecord
from bench.spec import RunSpec
from bench.store import Store

LOOK_BACK = 50
"""Newest runs that are looked through."""


def _kind(model: str, quant: str, spec: dict[str, object]) -> tuple[object, ...]:
    workload = spec["workload"]
    accuracy = spec["accuracy"]
    assert isinstance(workload, dict)
    assert isinstance(accuracy, dict)
    return (model, quant, spec["engine"], workload, accuracy["tasks"], accuracy["limit"], accuracy["max_gen_toks"])


def seconds_before(spec: RunSpec, earlier: Sequence[RunRecord]) -> float | None:
    """Return how long the longest like run took, in seconds; None if there is none.

    The longest, because a run that reused a checkpoint or a score says too little.
    """
    wanted = _kind(spec.variant.model, spec.variant.quant, spec.model_dump(mode="json"))
    found = [
        sum(seconds for stage, seconds in record.stage_seconds.items() if stage in ("source", "quantize", "serve"))
        for record in earlier
        if not record.failures and _kind(record.variant.model, record.variant.quant, record.spec) == wanted
    ]
    return max(found, default=None)


def announce(specs: Sequence[RunSpec], *, resumed: bool) -> list[str]:
    """Return one line for each run of a command, and one for all of them together where every time is known.

    Args:
        specs: the runs.
        resumed: whether the same command was cut short before.
    """
    earlier = Store(specs[0].results_dir).newest(LOOK_BACK)
    lines = ["going on with this command, which was cut short"] if resumed else []
    known: list[float] = []
    for spec in specs:
        cells = len(shapes_of(spec.workload))
        seconds = seconds_before(spec, earlier)
        known += [seconds] if seconds is not None else []
        time = f"up to {seconds / 60:.1f} min, as before" if seconds is not None else "no earlier run to estimate from"
        lines.append(
            f"{spec.variant.model} {spec.variant.quant}: {cells} cells of {spec.workload.trials} trials, "
            f"{len(spec.accuracy.tasks)} tasks; {time}"
        )
    if len(specs) > 1 and len(known) == len(specs):
        lines.append(f"in all up to {sum(known) / 60:.1f} min")
    return lines
