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


def at_pace(original: SpeedCell, factor: float) -> SpeedCell:
    """Return the cell with all times multiplied by ``factor``."""
    trials = []
    for trial in original.trials:
        requests = tuple(
            request.model_copy(update={"event_ns": tuple(round(at * factor) for at in request.event_ns)})
            for request in trial.requests
        )
        trials.append(trial.model_copy(update={"requests": requests}))
    return original.model_copy(update={"trials": tuple(trials)})


def test_a_cell_is_compared_with_its_limit() -> None:
    run = native_record()
    measured = MeasuredCell(run.cells[0])
    limit, summary = limit_of(run, measured), measured.summary
    assert limit
    share = against(limit, measured)
    assert share.mbu == share.decode
    assert summary.decode_tokens_per_s
    assert share.decode == pytest.approx(summary.decode_tokens_per_s.median / limit.roof_tokens_per_s)
    assert summary.ttft_s
    assert share.prefill == pytest.approx(limit.roof_ttft_s / summary.ttft_s.median)
    assert exceeds(limit, measured) is None


@pytest.mark.parametrize("margin", [0.5, 0.999, 1.001, 1.5])
def test_faster_than_the_memory_allows_is_an_error(margin: float) -> None:
    run = native_record()
    slow = native_cell("bf16", 1)
    limit, summary = limit_of(run, MeasuredCell(slow)), MeasuredCell(slow).summary
    assert limit
    assert summary.tpot_s
    edge = limit.least_decode.time_s / (1 + TOLERANCE)
    fast = at_pace(slow, margin * edge / summary.tpot_s.median)
    message = exceeds(limit, MeasuredCell(fast))
    if margin > 1:
        assert message is None or message.startswith("prefill")
    else:
        assert message
        assert re.match(r"decode moved \d+ % of what the memory of AMD EPYC 9R14, 2 threads can \(TPOT ", message)
        assert message.endswith("a cache hit, a miscount, or more than one token a step")


def test_a_prompt_from_the_cache_is_an_error() -> None:
    run, slow = native_record(), native_cell("bf16", 1024, output_len=1)
    limit, summary = limit_of(run, MeasuredCell(slow)), MeasuredCell(slow).summary
    assert limit
    assert summary.ttft_s
    fast = at_pace(slow, 0.1 * limit.least_prefill.time_s / summary.ttft_s.median)
    message = exceeds(limit, MeasuredCell(fast))
    assert message
    assert message.startswith("prefill multiplied 1000 % of what the arithmetic of")
    assert against(limit, MeasuredCell(slow)).mbu is None, "one token has no TPOT"


def test_nothing_is_compared_with_an_unknown_limit() -> None:
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
        run = native_record(**changes)
        measured = MeasuredCell(run.cells[0])
        assert limit_of(run, measured) is None
        assert set(columns(run, measured).values()) == {None}
    assert limit_of(record(), MeasuredCell(record().cells[0])) is None, "a record from before devices were recorded"


def test_the_baseline_is_compared_with_the_limit_of_its_own_checkpoint() -> None:
    run = controlled_record("fp8")
    assert run.control
    own, baseline = (limit_of(run, MeasuredCell(cells[0])) for cells in (run.cells, run.control.cells))
    assert own
    assert baseline
    assert baseline.traffic.linear_bytes == 2 * Architecture.model_validate(ARCHITECTURE).linear_parameters()
    assert own.traffic.linear_bytes == pytest.approx(baseline.traffic.linear_bytes * 8.03 / 16)
    assert own.multiplied_in == "fp8"


def test_an_open_loop_is_compared_with_the_limit_of_one_request() -> None:
    run = native_record()
    closed = native_cell("bf16", 256)
    opened = native_cell("bf16", 256, request_rate_per_s=2.0, n_requests=64).model_copy(update={"concurrency": 99})
    assert limit_of(run, MeasuredCell(opened)) == limit_of(run, MeasuredCell(closed))


def test_the_export_has_the_columns_of_the_limit() -> None:
    run = native_record()
    row = columns(run, MeasuredCell(run.cells[-1]))
    assert list(row) == ["roof_tokens_per_s", "mbu", "roof_ttft_s", "mfu", "bound_by", "bound_by_prefill"]
    assert row["bound_by"] == "memory"
    assert row["bound_by_prefill"] == "compute"
    assert isinstance(row["mbu"], float)
    assert 0 < row["mbu"] < 1


@pytest.mark.parametrize(
    ("quant", "status", "info", "override", "expected"),
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
    quant: str, status: str, info: dict[str, str], override: dict[str, str], expected: str
) -> None:
    spec = recorded_spec(quant, architecture=SHAPES, engine=override)
    run = native_record(quant, engine_info=info, spec=spec)
    cell = run.cells[0].model_copy(update={"status": status})
    task = score(quant, "mini-mmlu", status=status)  # type: ignore[arg-type]
    assert (computed_in(run, cell), computed_in(run, task)) == (expected, expected)
    if measured := measured_cell(cell):
        limit = limit_of(run, measured)
        assert limit
        assert limit.multiplied_in == expected


def test_a_cell_of_the_baseline_belongs_to_its_own_server() -> None:
    run = controlled_record("fp8")
    assert run.control
    control = run.control.model_copy(
        update={"engine_info": native_record(engine_info={"dtype": "float32"}).engine_info}
    )
    run = run.model_copy(update={"control": control})
    assert [computed_in(run, cell) for cell in (run.cells[0], control.cells[0])] == ["fp8", "fp32"]
    wide = limit_of(run, MeasuredCell(control.cells[0]))
    narrow = limit_of(native_record(server=server()), MeasuredCell(native_record().cells[0]))
    assert wide
    assert narrow
    assert wide.traffic.linear_bytes == 2 * narrow.traffic.linear_bytes


def test_a_token_is_multiplied_only_with_its_own_experts() -> None:
    dense = linear_flops(SHAPES)
    assert dense == 2 * SHAPES.linear_parameters()
    experts = SHAPES.model_copy(
        update={"experts": 8, "experts_per_token": 2, "moe_intermediate_size": SHAPES.intermediate_size}
    )
    assert linear_flops(experts) - dense == 2 * SHAPES.layers * SHAPES.mlp_parameters()
