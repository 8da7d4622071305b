"""Find the baseline of a run, a cell or a score. Pure functions.

The baseline is the model in BF16 on the same engine. Its scores come from a run of its own. Its speeds come from the
control, the server next to the variant's whose trials were interleaved with the variant's; where there was none, from
another run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.records.record import RunRecord, SpeedCell
from bench.speed.figures import MeasuredCell, measured_cell

BASELINE = "bf16"
"""Name of the variant without quantization, which the others are compared with."""
SUFFIX = "-baseline"
"""Suffix of the run ids of baselines that were served next to another run."""


@dataclass(frozen=True)
class SpeedBaseline:
    """The cells that a run's speeds are compared with."""

    record: RunRecord
    """The record that holds the cells and names their server and device."""
    cells: tuple[SpeedCell, ...]


def is_baseline(record: RunRecord) -> bool:
    """Whether a run is of the variant that the others are compared with."""
    return record.variant.quant == BASELINE


def is_control(record: RunRecord) -> bool:
    """Whether a record holds only a baseline that was served next to another run."""
    return record.run_id.endswith(SUFFIX)


def with_baselines(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records; each with a control is followed by a record of the control's cells."""
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
    # Runs of the baseline itself come first, for they have scores too; one served next to another run has cells only.
    for record in sorted(records, key=is_control):
        if is_baseline(record):
            first.setdefault((record.variant.model, record.engine), record)
    own = (first.get((record.variant.model, record.engine)) for record in records)
    return tuple(None if baseline is record else baseline for record, baseline in zip(records, own, strict=True))


def speed_baseline(record: RunRecord, baseline: RunRecord | None) -> SpeedBaseline | None:
    """Return the cells that a run's speeds are compared with: its control's, or else those of a run on the same device.

    Cells of another run count as not interleaved, since none of their trials alternated with this run's.

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
    """Return the fields that must agree for two cells to be compared; an objective is not among them."""
    return cell.input_len, cell.output_len, cell.concurrency, cell.request_rate_per_s, cell.n_requests


def cell_under_same_load(cells: Iterable[SpeedCell], cell: SpeedCell) -> SpeedCell | None:
    """Return the first of the cells with the same load as ``cell``."""
    return next((candidate for candidate in cells if _load(candidate) == _load(cell)), None)


def control_cell(record: RunRecord, cell: SpeedCell) -> MeasuredCell | None:
    """Return the measured cell of the control whose trials were interleaved with those of a cell of the run."""
    if record.control is None or not cell.interleaved:
        return None
    controls = (control for control in record.control.cells if control.interleaved and measured_cell(control))
    control = cell_under_same_load(controls, cell)
    return measured_cell(control) if control else None


def paired_runs(first: Sequence[RunRecord], second: Sequence[RunRecord]) -> list[tuple[RunRecord, RunRecord]]:
    """Return the pairs of runs of the same variant; if each side has only one run, these two."""
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    newest = {record.variant: record for record in second}
    return [(record, newest[record.variant]) for record in first if record.variant in newest]
