"""Which run, and which cell, is the baseline of which."""

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


def slower_baseline(one: RunRecord, pace: float) -> RunRecord:
    """Return a run whose baseline beside it takes ``pace`` times as long."""
    assert one.control
    cells = tuple(paced(cell, pace) for cell in one.control.cells)
    return one.model_copy(update={"control": one.control.model_copy(update={"cells": cells})})


def heat_ratios(records: list[RunRecord], quant: str) -> list[float]:
    [row] = [row for row in rows_of(heat.section(records), "decoding") if row[0].text.startswith(quant)]
    return [float(cell.text) for cell in row[1:] if re.fullmatch(r"[\d.]+", cell.text)]


def test_speeds_are_compared_with_the_baseline_that_took_turns_with_them() -> None:
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
    beside = with_baselines([controlled_record("fp8")])[1]
    assert all(cell.interleaved for cell in beside.cells)
    found = speed_baseline(native_record("gptq-int4"), beside)
    assert found
    assert not any(cell.interleaved for cell in found.cells)


def test_only_an_ok_cell_that_took_turns_is_a_control() -> None:
    one = controlled_record("fp8")
    assert one.control
    cell = one.cells[0]
    assert control_cell(one, cell) == MeasuredCell(one.control.cells[0])
    assert control_cell(one, cell.model_copy(update={"interleaved": False})) is None
    assert control_cell(native_record("fp8"), cell) is None
    failed = tuple(each.model_copy(update={"status": "failed"}) for each in one.control.cells)
    assert (
        control_cell(one.model_copy(update={"control": one.control.model_copy(update={"cells": failed})}), cell) is None
    )


@pytest.mark.parametrize("quant", ["fp8", "bf16"])
def test_a_cell_of_the_baseline_is_known_as_such_also_beside_the_same_quantization(quant: str) -> None:
    one = controlled_record(quant)
    assert one.control
    assert [row["baseline"] for row in rows(one) if row["task"] is None] == [None] * len(one.cells) + ["yes"] * len(
        one.control.cells
    )
    assert one.control_of(one.cells[0]) is None
    assert one.control_of(one.control.cells[0]) is one.control
    assert limit_of(one, MeasuredCell(one.control.cells[0]))
