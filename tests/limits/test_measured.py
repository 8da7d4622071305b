"""Measured cells against the limit of their device."""

import re

import pytest

from bench.limits.measured import TOLERANCE, against, columns, computed_in, exceeds, limit_of
from bench.limits.roofline import linear_flops
from bench.records.record import SpeedCell
from bench.speed.figures import MeasuredCell, measured_cell
from quantize.architecture import Architecture
from testkit.records import (
    ARCHITECTURE,
    controlled_record,
    manifest,
    native_cell,
    native_record,
    record,
    recorded_spec,
    server,
)
from testkit.scores import score

SHAPES = Architecture(**ARCHITECTURE)


def at_pace(made: SpeedCell, factor: float) -> SpeedCell:
    """Return a cell all of whose times are multiplied."""
    trials = []
    for trial in made.trials:
        requests = tuple(
            one.model_copy(update={"event_ns": tuple(round(at * factor) for at in one.event_ns)})
            for one in trial.requests
        )
        trials.append(trial.model_copy(update={"requests": requests}))
    return made.model_copy(update={"trials": tuple(trials)})


def test_a_cell_is_held_against_its_limit() -> None:
    made = native_record()
    cell = MeasuredCell(made.cells[0])
    found, summary = limit_of(made, cell), cell.summary
    assert found
    share = against(found, cell)
    assert share.mbu == share.decode
    assert summary.decode_tokens_per_s
    assert share.decode == pytest.approx(summary.decode_tokens_per_s.median / found.roof_tokens_per_s)
    assert summary.ttft_s
    assert share.prefill == pytest.approx(found.roof_ttft_s / summary.ttft_s.median)
    assert exceeds(found, cell) is None


@pytest.mark.parametrize("margin", [0.5, 0.999, 1.001, 1.5])
def test_faster_than_the_memory_allows_is_an_error(margin: float) -> None:
    made = native_record()
    slow = native_cell("bf16", 1)
    found, summary = limit_of(made, MeasuredCell(slow)), MeasuredCell(slow).summary
    assert found
    assert summary.tpot_s
    edge = found.least_decode.time_s / (1 + TOLERANCE)
    fast = at_pace(slow, margin * edge / summary.tpot_s.median)
    said = exceeds(found, MeasuredCell(fast))
    if margin > 1:
        assert said is None or said.startswith("prefill")
    else:
        assert said
        assert re.match(r"decode moved \d+ % of what the memory of AMD EPYC 9R14, 2 threads can \(TPOT ", said)
        assert said.endswith("a cache hit, a miscount, or more than one token a step")


def test_a_prompt_from_the_cache_is_an_error() -> None:
    made, slow = native_record(), native_cell("bf16", 1024, output_len=1)
    found, summary = limit_of(made, MeasuredCell(slow)), MeasuredCell(slow).summary
    assert found
    assert summary.ttft_s
    fast = at_pace(slow, 0.1 * found.least_prefill.time_s / summary.ttft_s.median)
    said = exceeds(found, MeasuredCell(fast))
    assert said
    assert said.startswith("prefill multiplied 1000 % of what the arithmetic of")
    assert against(found, MeasuredCell(slow)).mbu is None, "one token has no TPOT"


def test_nothing_is_held_against_what_is_not_known() -> None:
    good = native_record()
    assert limit_of(good, MeasuredCell(good.cells[0]))
    for changes in (
        {"device": None},
        {"server": None},
        {"checkpoint": None},
        {"spec": recorded_spec()},
        {"server": server(kv_cache_dtype="turboquant")},
        {"checkpoint": manifest("bf16", quantization_config={"quant_method": "bitsandbytes"})},
    ):
        made = native_record(**changes)
        cell = MeasuredCell(made.cells[0])
        assert limit_of(made, cell) is None
        assert set(columns(made, cell).values()) == {None}
    assert limit_of(record(), MeasuredCell(record().cells[0])) is None, "a record of before there were devices"


def test_the_baseline_beside_it_is_held_against_its_own_checkpoint() -> None:
    made = controlled_record("fp8")
    assert made.control
    own, beside = (limit_of(made, MeasuredCell(cells[0])) for cells in (made.cells, made.control.cells))
    assert own
    assert beside
    assert beside.traffic.linear_bytes == 2 * Architecture.model_validate(ARCHITECTURE).linear_parameters()
    assert own.traffic.linear_bytes == pytest.approx(beside.traffic.linear_bytes * 8.03 / 16)
    assert own.multiplied_in == "fp8"


def test_an_open_loop_is_held_against_one_request_alone() -> None:
    made = native_record()
    closed = native_cell("bf16", 256)
    opened = native_cell("bf16", 256, request_rate_per_s=2.0, n_requests=64).model_copy(update={"concurrency": 99})
    assert limit_of(made, MeasuredCell(opened)) == limit_of(made, MeasuredCell(closed))


def test_the_export_has_the_columns_of_the_limit() -> None:
    made = native_record()
    row = columns(made, MeasuredCell(made.cells[-1]))
    assert list(row) == ["roof_tokens_per_s", "mbu", "roof_ttft_s", "mfu", "bound_by", "bound_by_prefill"]
    assert row["bound_by"] == "memory"
    assert row["bound_by_prefill"] == "compute"
    assert isinstance(row["mbu"], float)
    assert 0 < row["mbu"] < 1


@pytest.mark.parametrize(
    ("quant", "status", "info", "told", "expected"),
    [
        ("bf16", "ok", {}, {}, "bf16"),
        ("bf16", "ok", {"dtype": "float32"}, {}, "fp32"),
        ("bf16", "ok", {}, {"dtype": "float32"}, "fp32"),
        ("fp8", "ok", {"dtype": "float32"}, {}, "fp8"),
        ("fp8", "emulated", {}, {}, "bf16"),
        ("fp8", "emulated", {"dtype": "float32"}, {}, "fp32"),
    ],
)
def test_cells_and_scores_are_computed_in_one_type(
    quant: str, status: str, info: dict[str, str], told: dict[str, str], expected: str
) -> None:
    spec = recorded_spec(quant, architecture=SHAPES, engine=told)
    one = native_record(quant, engine_info=info, spec=spec)
    cell = one.cells[0].model_copy(update={"status": status})
    task = score(quant, "mini-mmlu", status=status)  # type: ignore[arg-type]
    assert (computed_in(one, cell), computed_in(one, task)) == (expected, expected)
    if measured := measured_cell(cell):
        limit = limit_of(one, measured)
        assert limit
        assert limit.multiplied_in == expected


def test_a_cell_of_the_baseline_beside_a_run_is_of_its_own_server() -> None:
    one = controlled_record("fp8")
    assert one.control
    control = one.control.model_copy(
        update={"engine_info": native_record(engine_info={"dtype": "float32"}).engine_info}
    )
    one = one.model_copy(update={"control": control})
    assert [computed_in(one, cell) for cell in (one.cells[0], control.cells[0])] == ["fp8", "fp32"]
    wide = limit_of(one, MeasuredCell(control.cells[0]))
    narrow = limit_of(native_record(server=server()), MeasuredCell(native_record().cells[0]))
    assert wide
    assert narrow
    assert wide.traffic.linear_bytes == 2 * narrow.traffic.linear_bytes


def test_one_token_is_multiplied_with_the_experts_that_it_takes() -> None:
    dense = linear_flops(SHAPES)
    assert dense == 2 * SHAPES.linear_parameters()
    experts = SHAPES.model_copy(
        update={"experts": 8, "experts_per_token": 2, "moe_intermediate_size": SHAPES.intermediate_size}
    )
    assert linear_flops(experts) - dense == 2 * SHAPES.layers * SHAPES.mlp_parameters()
