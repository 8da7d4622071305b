"""Which run, cell and score is the baseline of which. Pure.

The baseline is the model in BF16 on the same engine. Its scores come from a run of its own. Its speeds come from the
server that was beside the variant's, whose trials took turns with the variant's, and only without one from another run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.record import RunRecord, SpeedCell
from bench.speed.figures import MeasuredCell, measured_cell

BASELINE = "bf16"
"""Name of the quantization that the others are compared with: none."""
SUFFIX = "-baseline"
"""How the run ids of baselines end that were served beside another run."""


@dataclass(frozen=True)
class SpeedBaseline:
    """What a run's speeds are compared with."""

    record: RunRecord
    """The record that holds the cells, and with them their server and their device."""
    cells: tuple[SpeedCell, ...]


def is_baseline(record: RunRecord) -> bool:
    """Tell whether a run is of the quantization that the others are compared with."""
    return record.variant.quant == BASELINE


def is_beside(record: RunRecord) -> bool:
    """Tell whether a record holds nothing but a baseline that was served beside another run."""
    return record.run_id.endswith(SUFFIX)


def with_baselines(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records and, after each whose baseline was served beside it, one of that baseline's cells alone."""
    expanded: list[RunRecord] = []
    for record in records:
        expanded.append(record)
        if record.control is not None:
            control = record.control
            baseline: dict[str, object] = {
                "run_id": f"{record.run_id}{SUFFIX}",
                "variant": control.variant,
                "checkpoint": control.checkpoint,
                "engine_info": control.engine_info,
                "server": control.server,
                "cells": control.cells,
                "control": None,
                "scores": (),
                "failures": (),
            }
            expanded.append(record.model_copy(update=baseline))
    return expanded


def baselines(records: Sequence[RunRecord]) -> tuple[RunRecord | None, ...]:
    """Return each record's baseline among them, the first of the same model on the same engine.

    None where there is none, or where the record is that baseline itself.
    """
    first: dict[tuple[str, str], RunRecord] = {}
    # A run of its own has scores too; a baseline that was served beside another run has cells only.
    for record in sorted(records, key=is_beside):
        if is_baseline(record):
            first.setdefault((record.variant.model, record.engine), record)
    own = (first.get((record.variant.model, record.engine)) for record in records)
    return tuple(None if baseline is record else baseline for record, baseline in zip(records, own, strict=True))


def speed_baseline(record: RunRecord, baseline: RunRecord | None) -> SpeedBaseline | None:
    """Return what a run's speeds are compared with: the server beside its own, or else a run on the same device.

    The cells of another run count as not interleaved: their trials took turns with nothing of this run.

    Args:
        record: a run of a variant.
        baseline: its baseline; None if there is none.
    """
    if record.control is not None and record.control.cells:
        return SpeedBaseline(record, record.control.cells)
    if baseline is None or _device(baseline) != _device(record):
        return None
    return SpeedBaseline(baseline, tuple(cell.model_copy(update={"interleaved": False}) for cell in baseline.cells))


def _device(record: RunRecord) -> str | None:
    return record.device.name if record.device else None


def _load(cell: SpeedCell) -> tuple[int, int, int, float | None, int]:
    """Return what must be alike for cells to be compared; an objective is no load."""
    return cell.input_len, cell.output_len, cell.concurrency, cell.request_rate_per_s, cell.n_requests


def cell_under_same_load(cells: Iterable[SpeedCell], cell: SpeedCell) -> SpeedCell | None:
    """Return the first of some cells that was measured under the same load as another."""
    return next((candidate for candidate in cells if _load(candidate) == _load(cell)), None)


def control_cell(record: RunRecord, cell: SpeedCell) -> MeasuredCell | None:
    """Return the measured cell of the baseline whose trials were interleaved with those of one of a run's cells."""
    if record.control is None or not cell.interleaved:
        return None
    controls = (control for control in record.control.cells if control.interleaved and measured_cell(control))
    control = cell_under_same_load(controls, cell)
    return measured_cell(control) if control else None


def paired_runs(first: Sequence[RunRecord], second: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """Return which runs belong together: the same variants, or, where each side has one run, these two."""
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    newest = {record.variant: record for record in second}
    return [(record, newest[record.variant]) for record in first if record.variant in newest]
