"""Forecasts of runs on any machine, by arithmetic only."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy.tasks import MINI_DIR
from bench.config.compose import names
from bench.limits.roofline import bits_per_weight
from bench.plan.forecast import Forecast, forecast, forecast_of
from bench.plan.parallelism import Load, fewest, refusal, spread
from bench.plan.placement import format_of, served_weights, sizes
from bench.plan.stages import context_of
from bench.plan.table import answer, trouble
from bench.plan.tasks import assumptions
from bench.published.figures import architecture_of
from tests.support.forecasts import CORE, DEVICES, PARTS, spec


def planned(model: str, quant: str = "bf16", hardware: str = "h100", *more: str) -> Forecast:
    return forecast(spec(model, quant, hardware, *more), DEVICES[hardware], per_machine=8)


def spread_of(run: Forecast) -> tuple[int, int, int]:
    assert run.fit is not None
    return run.fit.spread.tp, run.fit.spread.pp, run.fit.spread.ep


@pytest.mark.parametrize(
    ("quant", "step_gb", "roof"), [("bf16", 15.14, 264), ("fp8-block", 8.19, 488), ("awq-int4", 4.85, 822)]
)
def test_a_step_of_qwen3_8b_on_h20_reads_what_was_computed_by_hand(quant: str, step_gb: float, roof: float) -> None:
    # With almost no answer, a decode step reads little more than the weights.
    plan = planned("qwen3-8b", quant, "h20", "workload.input_lens=1", "workload.output_len=2")
    decode = plan.cells[0].decode
    assert decode is not None
    assert decode.moved_bytes / 1e9 == pytest.approx(step_gb, abs=0.01)
    assert 1 / decode.time_s == pytest.approx(roof, rel=0.005)
    assert plan.engine == "sglang"
    assert spread_of(plan) == (1, 1, 1)


def test_only_prompts_that_are_sent_together_wait_for_one_another() -> None:
    def prefill(concurrency: int, per_slot: int) -> float:
        load = f"workload.concurrency={concurrency}", f"workload.requests_per_slot={per_slot}"
        [cell] = planned("qwen3-8b", "bf16", "h100", "workload.input_lens=1024", *load).cells
        assert cell.prefill
        return cell.prefill.flops

    assert prefill(4, 3) == prefill(1, 1)
    assert prefill(4, 1) == pytest.approx(2.5 * prefill(1, 1))


def test_an_open_loop_has_the_limit_of_a_single_request() -> None:
    lengths = ("workload.input_lens=1024", "accuracy=none")
    plan = planned("qwen3-8b", "bf16", "h100", *lengths, "workload.concurrency=1", "workload.request_rates=[2.0]")
    alone, opened = plan.cells
    assert (alone.shape.request_rate_per_s, opened.shape.request_rate_per_s) == (None, 2.0)
    assert (opened.decode, opened.prefill) == (alone.decode, alone.prefill)


def test_235b_in_fp8_takes_four_h100_and_the_plan_has_the_override() -> None:
    plan = planned("qwen3-235b-a22b", "fp8")
    assert spread_of(plan) == (4, 1, 1)
    assert plan.fit is not None
    assert plan.fit.spread.weights_bytes == pytest.approx(59e9, rel=0.02)
    assert "type engine=sglang engine.tp_size=4" in plan.remarks
    assert re.search(r"4 devices \(tp 4\), 59\.\d GB of 80\.0 GB each; at best \d+ tokens/s at input 1;", answer(plan))
    assert (plan.total_parameters, plan.active_parameters) == (235_093_634_560, 22_190_763_520)


def test_the_overrides_suggested_by_a_plan_work() -> None:
    plan = planned("qwen3-235b-a22b", "fp8-block", "l40s")
    (advice,) = (remark.removeprefix("type ") for remark in plan.remarks if remark.startswith("type "))
    again = planned("qwen3-235b-a22b", "fp8-block", "l40s", *advice.split())
    assert spread_of(again) == spread_of(plan) == (8, 1, 8)
    assert trouble(again) is None
    assert not any(remark.startswith("type ") for remark in again.remarks)


def test_blocks_that_share_a_scale_are_not_cut() -> None:
    run = spec("qwen3-235b-a22b", "fp8-block")
    shapes, blocks = run.model.architecture, format_of(run)
    reason = refusal(shapes, blocks, 8)
    assert reason == "gate_proj: 1536 / 8 = 192 cuts through blocks of 128 that share a scale"
    assert refusal(shapes, blocks, 4) is None
    assert refusal(shapes, blocks, 8, whole_experts=True) is None
    assert refusal(shapes, None, 8) is None
    assert refusal(shapes, format_of(spec("qwen3-235b-a22b", "fp8")), 8) is None, "a scale per channel is not cut"
    assert "down_proj" in str(refusal(shapes, format_of(spec("qwen3-235b-a22b", "gptq-int4")), 8))


def test_an_official_release_with_two_names_is_judged_by_its_blocks() -> None:
    plan = planned("qwen3-235b-a22b", "fp8", "h100", "quant.source=official", "engine=sglang", "engine.tp_size=8")
    assert trouble(plan) == "cannot be sharded this way"
    assert "tp 8, as asked: gate_proj: 1536 / 8 = 192 cuts through blocks" in "".join(plan.remarks)
    assert not plan.able


@pytest.mark.parametrize(
    ("tp", "message"), [(3, "heads cannot be split into 3"), (16, None), (64, None), (128, "64 heads cannot be split")]
)
def test_heads_are_split_evenly_and_too_few_key_heads_are_copied(tp: int, message: str | None) -> None:
    reason = refusal(spec("qwen3-235b-a22b").model.architecture, None, tp)
    assert (message is None and reason is None) or (message is not None and message in str(reason))


def test_pipeline_parallelism_does_not_make_decoding_faster() -> None:
    plan = planned("qwen3-235b-a22b", "bf16", "rtx4090")
    tp, pp, _ = spread_of(plan)
    assert (tp, pp) == (8, 3)
    assert trouble(plan) is None
    assert any(f"engine.nnodes={pp} engine.dist_init_addr=HOST:PORT" in remark for remark in plan.remarks)
    decode = plan.cells[0].decode
    assert decode is not None
    assert decode.memory_s == pytest.approx(decode.moved_bytes / 1.008e12 / tp)


def test_a_requested_sharding_is_judged_and_corrected() -> None:
    for tp in (1, 2):
        plan = planned("qwen3-235b-a22b", "fp8", "h100", "engine=sglang", f"engine.tp_size={tp}")
        assert spread_of(plan)[0] == tp
        assert trouble(plan) == "does not fit"
        assert plan.cells[0].reason == "the weights do not fit"
        (remark,) = (text for text in plan.remarks if text.startswith(f"tp {tp}, as asked"))
        assert "GB of weights" in remark
        assert remark.endswith("; type engine.tp_size=4")
    assert trouble(planned("qwen3-235b-a22b", "fp8", "h100", "engine=sglang", "engine.tp_size=4")) is None


def test_overrides_of_vllm_use_its_own_names() -> None:
    plan = planned("qwen3-235b-a22b", "fp8", "h100", "engine=vllm")
    assert "type engine.tensor_parallel_size=4" in plan.remarks


def test_two_machines_of_eight_serve_235b_in_bf16() -> None:
    more = ("engine=sglang", "engine.tp_size=8", "engine.pp_size=2", "engine.nnodes=2", "engine.dist_init_addr=n1:5000")
    plan = planned("qwen3-235b-a22b", "bf16", "h100", *more)
    assert plan.fit is not None
    assert plan.fit.devices == 16
    assert trouble(plan) is None


def test_an_engine_of_one_device_names_those_that_split_a_model() -> None:
    plan = planned("qwen3-235b-a22b", "bf16", "h100", "engine=transformers")
    assert spread_of(plan) == (1, 1, 1)
    assert trouble(plan) == "does not fit"
    assert any("engine=transformers takes one device; engine=sglang" in remark for remark in plan.remarks)


def test_expanded_weights_need_the_memory_of_16_bits() -> None:
    plan = planned("qwen3-8b", "gptq-int4", "h100", "engine=transformers")
    assert plan.fit is not None
    assert plan.fit.spread.weights_bytes == pytest.approx(16.4e9, rel=0.01)
    assert plan.checkpoint_bytes == pytest.approx(6.1e9, rel=0.05)


def test_only_the_cells_that_do_not_fit_are_not_supported() -> None:
    more = ("engine=sglang", "engine.tp_size=1", "workload=load", "workload.concurrency=[1,1024]", "accuracy=none")
    plan = planned("qwen3-32b", "bf16", "h100", *more)
    assert trouble(plan) == "not all cells fit"
    assert [cell.reason is None for cell in plan.cells] == [True, False]
    assert "655,360 tokens at once, but only" in str(plan.cells[1].reason)


def test_a_cell_beyond_the_context_is_not_supported_and_suggests_an_override() -> None:
    plan = planned("qwen3-8b", "bf16", "h100", "workload=qwen")
    reasons = [cell.reason for cell in plan.cells]
    assert reasons[:4] == [None] * 4
    assert "type context=131k" in str(reasons[-1])
    longer = planned("qwen3-8b", "bf16", "h100", "workload=qwen", "context=131k")
    assert not any(cell.reason for cell in longer.cells)
    assert "YaRN stretches the positions 4 times, to 131,072 tokens" in longer.remarks
    far = planned("qwen3-8b", "bf16", "h100", "context=1m")
    assert any("its authors state a maximum of 131,072 tokens" in remark for remark in far.remarks)


def test_a_cell_may_fill_the_context_and_is_planned_for() -> None:
    run = spec("qwen3-8b", "bf16", "h100", "accuracy=none")
    length = context_of(run)
    for input_len, fills in ((length - 64, True), (length - 63, False)):
        lengths = (f"workload.input_lens={input_len}", "workload.output_len=64", "accuracy=none")
        plan = planned("qwen3-8b", "bf16", "h100", *lengths)
        assert (plan.cells[0].reason is None) == fills
        assert plan.fit
        assert plan.fit.spread.kv_bytes == 147_456 * (length if fills else 4096)


def test_likely_times_come_from_published_cells_with_an_interval() -> None:
    plan = planned("qwen3-8b", "bf16", "h20", "workload=qwen", "context=131k")
    first = plan.cells[0]
    assert first.likely_tpot_s is not None
    assert first.decode is not None
    assert first.likely_tpot_s.low < 12.24e-3 < first.likely_tpot_s.high
    assert first.decode.time_s < first.likely_tpot_s.low
    likely, best = plan.cells_likely_s, plan.cells_best_s
    assert likely is not None
    assert best is not None
    assert best < likely.low < likely.value < likely.high
    assert planned("qwen3-30b-a3b", "bf16", "h20").cells_likely_s is None, "the law is of dense models"


def test_a_device_without_fp8_units_is_remarked() -> None:
    assert any("only the smaller weights save time" in remark for remark in planned("qwen3-8b", "fp8", "a100").remarks)
    assert not any("does not multiply" in remark for remark in planned("qwen3-8b", "fp8", "h100").remarks)


def test_a_plan_has_the_sizes_of_downloads_and_builds() -> None:
    plan = planned("qwen3-8b", "gptq-int4")
    assert plan.build is not None
    assert plan.build.download_bytes == pytest.approx(16.4e9, rel=0.01)
    assert plan.checkpoint_bytes == pytest.approx(6.1e9, rel=0.05)
    assert plan.build.disk_bytes == pytest.approx(22.5e9, rel=0.05)
    assert plan.build.calibration_tokens == 128 * 512
    assert plan.build.best_s == pytest.approx(2 * 6.946e9 * 128 * 512 / 989.5e12, rel=0.001)
    official = planned("qwen3-8b", "fp8", "h100", "quant.source=official")
    assert official.build is not None
    assert official.build.release
    assert official.build.download_bytes == pytest.approx(16.4e9 + official.checkpoint_bytes, rel=0.01), (
        "a release is proven against its source"
    )
    tiny = planned("tiny-qwen3").build
    assert tiny is not None
    assert tiny.download_bytes is None


def test_an_external_server_has_no_limit_and_builds_nothing() -> None:
    plan = forecast_of(spec("qwen3-8b", "bf16", "h100", "engine=attach", "engine.url=http://127.0.0.1:8000"))
    assert plan.device is None
    assert plan.build is None
    assert any("external server" in remark for remark in plan.remarks)


def test_a_baseline_is_served_too() -> None:
    alone = planned("qwen3-8b", "fp8", "h100", "accuracy=none")
    both = planned("qwen3-8b", "fp8", "h100", "accuracy=none", "quant@baseline=bf16")
    plain = planned("qwen3-8b", "bf16", "h100", "accuracy=none")
    assert alone.best_s is not None
    assert plain.best_s is not None
    assert both.best_s == pytest.approx(alone.best_s + plain.best_s)


def test_items_of_limited_tasks_are_counted() -> None:
    full = planned("qwen3-8b", "bf16", "h100", "accuracy=full")
    assert {task.task: task.items for task in full.tasks} == {"mmlu": 14042, "ceval-valid": 1346, "ifeval": 541}
    assert full.tasks[0].best_s is not None
    assert full.tasks[0].prompt_tokens == pytest.approx(1.4e6, rel=0.01)
    some = planned("qwen3-8b", "bf16", "h100", "accuracy=full", "accuracy.limit=20")
    assert {task.task: task.items for task in some.tasks} == {"mmlu": 1140, "ceval-valid": 1008, "ifeval": 100}


def test_only_the_baseline_is_scored_twice_for_the_noise_floor() -> None:
    full = ("accuracy=full", "accuracy.noise_floor=true")
    tokens = planned("qwen3-8b", "bf16", "h100", "accuracy=full").tasks[0].prompt_tokens
    assert tokens
    assert planned("qwen3-8b", "bf16", "h100", *full).tasks[0].prompt_tokens == 2 * tokens
    assert planned("qwen3-8b", "fp8", "h100", *full).tasks[0].prompt_tokens == tokens


def test_items_of_the_mini_tasks_match_their_files() -> None:
    for task, file in {"mini-mmlu": "mmlu_test", "mini-ceval": "ceval_val", "mini-ifeval": "ifeval_test"}.items():
        lines = (MINI_DIR / f"{file}.jsonl").read_text().splitlines()
        assert assumptions()[task].items == len([line for line in lines if line])
    assert [task.items for task in planned("qwen3-8b").tasks] == [64, 48, 32]


SHAPES = {name: architecture_of(name) for name in names("model") if name.startswith("qwen")}
FORMS = {quant: format_of(part) for quant, part in PARTS.items()}


@given(
    model=st.sampled_from(sorted(SHAPES)),
    quant=st.sampled_from(CORE),
    kv_tokens=st.integers(1, 2**20),
    memory=st.floats(8e9, 2e11),
)
@settings(max_examples=200, deadline=None)
def test_the_fewest_devices_hold_everything_and_fewer_do_not(
    model: str, quant: str, kv_tokens: int, memory: float
) -> None:
    shapes, form = SHAPES[model], FORMS[quant]
    assert shapes is not None
    layers, rest = sizes(shapes, bits_per_weight(form, shapes) if form else None)
    load = Load(
        layers_bytes=layers,
        rest_bytes=rest,
        kv_bytes_per_token=4.0 * shapes.layers * shapes.kv_heads * shapes.head_dim,
        kv_tokens=kv_tokens,
        budget_bytes=memory,
    )
    sharding, _ = fewest(shapes, form, load, per_machine=8, machines=16)
    if sharding is None:
        return
    assert sharding.fits
    assert refusal(shapes, form, sharding.tp, whole_experts=sharding.ep > 1) is None
    assert sharding.devices * sharding.weights_bytes >= 0.999999 * (layers + rest)
    assert sharding.devices * sharding.kv_bytes >= 0.999999 * kv_tokens * load.kv_bytes_per_token
    for tp in (1, 2, 4, 8):
        if tp < sharding.tp or (tp == sharding.tp and sharding.pp > 1):
            assert not spread(shapes, load, tp).fits or refusal(shapes, form, tp) is not None


PLANNED = {
    (model, quant, tp): spec(model, quant, "h100", "engine=sglang", f"engine.tp_size={tp}", "accuracy=none")
    for model in ("qwen3-8b", "qwen3-30b-a3b")
    for quant in ("bf16", "fp8", "awq-int4")
    for tp in (1, 2)
}


@given(
    model=st.sampled_from(("qwen3-8b", "qwen3-30b-a3b")),
    quant=st.sampled_from(("bf16", "fp8", "awq-int4")),
    first=st.integers(1, 19000),
    further=st.integers(1, 19000),
)
@settings(deadline=None)
def test_a_longer_input_is_never_faster_and_more_devices_never_slower(
    model: str, quant: str, first: int, further: int
) -> None:
    def cells(tp: int) -> list[tuple[float, float]]:
        run = PLANNED[model, quant, tp]
        workload = run.workload.model_copy(update={"input_lens": (first, first + further)})
        plan = forecast(run.model_copy(update={"workload": workload}), DEVICES["h100"])
        return [(cell.decode.time_s, cell.prefill.time_s) for cell in plan.able if cell.decode and cell.prefill]

    (short, long), doubled = cells(1), cells(2)
    assert all(a <= b for a, b in zip(short, long, strict=True))
    assert all(b <= a for few, many in zip((short, long), doubled, strict=True) for a, b in zip(few, many, strict=True))


def test_a_blocks_format_is_that_of_what_is_served() -> None:
    assert served_weights(spec("qwen3-8b", "fp8")).multiplied_in == "fp8"
    assert served_weights(spec("qwen3-8b", "awq-int4")).multiplied_in == "bf16"
    assert served_weights(spec("qwen3-8b", "fp8", "h100", "engine=transformers")).multiplied_in == "bf16"
