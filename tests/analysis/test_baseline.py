"""The baseline of a run, and the control of a cell."""

import re

import pytest

from bench.analysis.baseline import baselines, control_cell, speed_baseline, with_baselines
from bench.limits.measured import limit_of
from bench.records.record import RunRecord
from bench.report.rows import rows
from bench.report.sections import heat
from bench.speed.figures import MeasuredCell
from testkit.records import controlled_record, device, native_record, paced
from tests.support.blocks import rows_of


def slower_baseline(run: RunRecord, pace: float) -> RunRecord:
    """Return a run whose control takes ``pace`` times as long."""
    assert run.control
    cells = tuple(paced(cell, pace) for cell in run.control.cells)
    return run.model_copy(update={"control": run.control.model_copy(update={"cells": cells})})


def heat_ratios(records: list[RunRecord], quant: str) -> list[float]:
    [row] = [row for row in rows_of(heat.section(records), "decoding") if row[0].text.startswith(quant)]
    return [float(cell.text) for cell in row[1:] if re.fullmatch(r"[\d.]+", cell.text)]


def test_speeds_are_compared_with_the_interleaved_baseline() -> None:
    first, second = controlled_record("fp8"), slower_baseline(controlled_record("gptq-int4"), 2.0)
    together = with_baselines([first, second])
    for quant, alone in (("fp8", first), ("gptq-int4", second)):
        assert heat_ratios(together, quant) == heat_ratios(with_baselines([alone]), quant)


def test_a_baseline_on_another_device_is_none_for_speeds() -> None:
    here, elsewhere = native_record("fp8"), native_record("bf16", device=device(name="another GPU"))
    assert baselines([here, elsewhere]) == (elsewhere, None)
    assert speed_baseline(here, elsewhere) is None
    assert heat_ratios([here, elsewhere], "fp8") == []
    assert len(heat_ratios([here, native_record("bf16")], "fp8")) == len(here.cells)


def test_cells_of_another_run_pair_with_no_trial_of_this_one() -> None:
    control = with_baselines([controlled_record("fp8")])[1]
    assert all(cell.interleaved for cell in control.cells)
    baseline = speed_baseline(native_record("gptq-int4"), control)
    assert baseline
    assert not any(cell.interleaved for cell in baseline.cells)


def test_only_an_interleaved_ok_cell_is_a_control() -> None:
    run = controlled_record("fp8")
    assert run.control
    cell = run.cells[0]
    assert control_cell(run, cell) == MeasuredCell(run.control.cells[0])
    assert control_cell(run, cell.model_copy(update={"interleaved": False})) is None
    assert control_cell(native_record("fp8"), cell) is None
    failed = tuple(each.model_copy(update={"status": "failed"}) for each in run.control.cells)
    assert (
        control_cell(run.model_copy(update={"control": run.control.model_copy(update={"cells": failed})}), cell) is None
    )


@pytest.mark.parametrize("quant", ["fp8", "bf16"])
def test_a_cell_of_the_control_is_known_as_such_even_with_the_same_quantization(quant: str) -> None:
    run = controlled_record(quant)
    assert run.control
    assert [row["baseline"] for row in rows(run) if row["task"] is None] == [None] * len(run.cells) + ["yes"] * len(
        run.control.cells
    )
    assert run.control_of(run.cells[0]) is None
    assert run.control_of(run.control.cells[0]) is run.control
    assert limit_of(run, MeasuredCell(run.control.cells[0]))
