"""Plans: what a run will take, on any machine, from arithmetic alone."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.compose import compose_job, names
from bench.device import lookup
from bench.errors import ConfigError
from bench.forecast import Forecast, forecast
from bench.forecast_table import answer, duration, forecasts
from bench.published import architecture_of
from bench.record import Device
from bench.roofline import bits_per_weight
from bench.spec import RunSpec, plugin
from bench.spread import fewest, refusal, spread
from quantize.formats import Format
from tests.conftest import Cli

GPUS = ("h20", "h100", "h200", "a100", "l40s", "rtx4090")
QUANTS = ("bf16", "fp8", "fp8-block", "gptq-int8", "gptq-int4", "awq-int4")


def spec(model: str, quant: str = "bf16", hardware: str = "h100", *more: str) -> RunSpec:
    return compose_job([f"+model={model}", f"quant={quant}", f"hardware={hardware}", "plan=true", *more])


def device(hardware: str) -> Device:
    name = spec("qwen3-8b", "bf16", hardware).hardware.device
    assert name is not None
    found = lookup(name)
    assert found is not None
    return found


DEVICES = {hardware: device(hardware) for hardware in GPUS}


def planned(model: str, quant: str = "bf16", hardware: str = "h100", *more: str) -> Forecast:
    return forecast(spec(model, quant, hardware, *more), DEVICES[hardware])


def form_of(quant: str, model: str = "qwen3-8b") -> Format | None:
    found = spec(model, quant)
    method = plugin("quantize.methods", found.quant.module)
    form: Format | None = method.expected(
        method.Config.model_validate(found.quant.config), found.model.architecture
    ).format
    return form


@pytest.mark.parametrize(("quant", "step_gb"), [("bf16", 15.14), ("fp8-block", 8.19), ("awq-int4", 4.85)])
def test_a_step_of_qwen3_8b_on_h20_reads_what_was_computed_by_hand(quant: str, step_gb: float) -> None:
    found = planned("qwen3-8b", quant, "h20", "workload=qwen", "context=131k")
    limit = found.cells[0].limit
    assert limit is not None
    assert (limit.traffic.linear_bytes + limit.traffic.rest_bytes) / 1e9 == pytest.approx(step_gb, abs=0.01)
    assert limit.roof_tokens_per_s == pytest.approx(4e12 / limit.traffic.total_bytes)
    assert found.engine == "sglang"
    assert found.spread is not None
    assert found.spread.devices == 1


def test_235b_in_fp8_takes_four_h100_and_says_how_to_ask_for_them() -> None:
    found = planned("qwen3-235b-a22b", "fp8")
    assert found.spread is not None
    assert (found.spread.tp, found.spread.pp) == (4, 1)
    assert found.spread.weights_bytes == pytest.approx(59e9, rel=0.02)
    assert "type engine.tp_size=4" in found.remarks
    text = answer(found)
    assert "4 devices (tp 4)" in text
    assert "tokens/s each at input 1" in text
    assert (found.total_parameters, found.active_parameters) == (235_093_634_560, 22_190_763_520)


def test_blocks_that_share_a_scale_are_not_cut() -> None:
    shapes = spec("qwen3-235b-a22b").model.architecture
    blocks = form_of("fp8-block", "qwen3-235b-a22b")
    reason = refusal(shapes, blocks, 8)
    assert reason == "gate_proj: 1536 / 8 = 192 cuts through blocks of 128 that share a scale"
    assert refusal(shapes, blocks, 4) is None
    assert refusal(shapes, blocks, 8, whole_experts=True) is None
    assert refusal(shapes, None, 8) is None
    found = planned("qwen3-235b-a22b", "fp8-block", "l40s")
    assert found.spread is not None
    assert (found.spread.tp, found.spread.ep) == (8, 8)
    assert any("engine.ep_size=8" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("tp", "said"), [(3, "heads cannot be split in 3"), (16, None), (64, None), (128, "64 heads cannot be split")]
)
def test_heads_are_split_evenly_and_keys_copied_where_there_are_too_few(tp: int, said: str | None) -> None:
    reason = refusal(spec("qwen3-235b-a22b").model.architecture, None, tp)
    assert (said is None and reason is None) or (said is not None and said in str(reason))


def test_several_machines_take_layers_in_turn() -> None:
    found = planned("qwen3-235b-a22b", "bf16", "rtx4090")
    assert found.spread is not None
    assert found.spread.tp == 8
    assert found.spread.pp > 1
    assert found.spread.fits
    assert any(f"engine.nnodes={found.spread.pp}" in remark for remark in found.remarks)


def test_what_was_asked_for_is_judged_and_corrected() -> None:
    found = planned("qwen3-235b-a22b", "fp8", "h100", "engine=sglang", "engine.tp_size=2")
    assert found.asked
    assert found.spread is not None
    assert not found.spread.fits
    assert any("does not run; type engine.tp_size=4" in remark for remark in found.remarks)
    right = planned("qwen3-235b-a22b", "fp8", "h100", "engine=sglang", "engine.tp_size=4")
    assert not any("does not run" in remark for remark in right.remarks)


def test_two_machines_of_eight_serve_235b_in_bf16() -> None:
    more = ("engine=sglang", "engine.tp_size=8", "engine.pp_size=2", "engine.nnodes=2", "engine.dist_init_addr=n1:5000")
    found = planned("qwen3-235b-a22b", "bf16", "h100", *more)
    assert found.spread is not None
    assert found.spread.devices == 16
    assert found.spread.fits
    assert not any("does not run" in remark for remark in found.remarks)


def test_a_cell_beyond_the_context_is_not_supported_and_says_what_to_type() -> None:
    found = planned("qwen3-8b", "bf16", "h100", "workload=qwen")
    reasons = [cell.reason for cell in found.cells]
    assert reasons[:4] == [None] * 4
    assert "type context=131k" in str(reasons[-1])
    longer = planned("qwen3-8b", "bf16", "h100", "workload=qwen", "context=131k")
    assert not any(cell.reason for cell in longer.cells)
    assert "YaRN stretches the positions 4 times, to 131,072 tokens" in longer.remarks
    far = planned("qwen3-8b", "bf16", "h100", "context=1m")
    assert any("its makers say that YaRN takes it to 131,072 tokens only" in remark for remark in far.remarks)


def test_what_is_likely_comes_from_published_cells_with_its_interval() -> None:
    found = planned("qwen3-8b", "bf16", "h20", "workload=qwen", "context=131k")
    first = found.cells[0]
    assert first.likely_tpot_s is not None
    assert first.limit is not None
    assert first.likely_tpot_s.low < 12.24e-3 < first.likely_tpot_s.high
    assert first.limit.roof_tpot_s < first.likely_tpot_s.low
    assert found.likely_s is not None
    assert found.best_s is not None
    assert found.likely_s > found.best_s
    assert planned("qwen3-30b-a3b", "bf16", "h20").likely_s is None, "the law is of dense models"


def test_fp8_on_a_device_without_fp8_units_is_told() -> None:
    assert any("does not multiply fp8" in remark for remark in planned("qwen3-8b", "fp8", "a100").remarks)
    assert not any("does not multiply" in remark for remark in planned("qwen3-8b", "fp8", "h100").remarks)


def test_sizes_to_be_downloaded_and_built_are_told() -> None:
    made = planned("qwen3-8b", "gptq-int4")
    assert made.download_bytes == pytest.approx(16.4e9, rel=0.01)
    assert made.checkpoint_bytes == pytest.approx(6.1e9, rel=0.05)
    assert made.build is not None
    assert made.calibration is not None
    official = planned("qwen3-8b", "fp8", "h100", "quant.source=official")
    assert official.build is None
    assert official.download_bytes == official.checkpoint_bytes
    assert planned("tiny-qwen3").download_bytes is None


def test_items_of_limited_tasks_are_counted() -> None:
    full = planned("qwen3-8b", "bf16", "h100", "accuracy=full")
    assert {task.task: task.items for task in full.tasks} == {"mmlu": 14042, "ceval-valid": 1346, "ifeval": 541}
    assert full.tasks[0].best_s is not None
    some = planned("qwen3-8b", "bf16", "h100", "accuracy=full", "accuracy.limit=20")
    assert {task.task: task.items for task in some.tasks} == {"mmlu": 1140, "ceval-valid": 1008, "ifeval": 100}


SHAPES = {name: architecture_of(name) for name in names("model") if name.startswith("qwen3")}
FORMS = {quant: form_of(quant) for quant in QUANTS}


@given(
    model=st.sampled_from(sorted(SHAPES)),
    quant=st.sampled_from(QUANTS),
    kv_tokens=st.integers(1, 2**20),
    memory=st.floats(8e9, 2e11),
)
@settings(max_examples=200, deadline=None)
def test_the_fewest_devices_hold_everything_and_fewer_do_not(
    model: str, quant: str, kv_tokens: int, memory: float
) -> None:
    shapes, form = SHAPES[model], FORMS[quant]
    weights = 2.0 * (shapes.parameters() - shapes.linear_parameters())
    weights += shapes.linear_parameters() * (bits_per_weight(form, shapes) if form else 16) / 8
    given_sizes = {
        "weights_bytes": weights, "kv_tokens": kv_tokens, "kv_cache_dtype": "auto", "budget_bytes": memory,
    }  # fmt: skip
    found, _ = fewest(shapes, form, **given_sizes, per_machine=8)
    if found is None:
        return
    assert found.fits
    assert found.devices * found.weights_bytes == pytest.approx(weights)
    for tp in (1, 2, 4, 8):
        if tp < found.tp or (tp == found.tp and found.pp > 1):
            smaller = spread(shapes, form, **given_sizes, tp=tp)
            assert not smaller.fits or refusal(shapes, form, tp) is not None


@pytest.mark.parametrize("model", [name for name in names("model") if name not in ("hub", "local")])
def test_every_model_plans_offline_on_every_device(model: str) -> None:
    for quant in ("bf16", "fp8-block"):
        one = spec(model, quant)
        for found in DEVICES.values():
            told = answer(forecast(one, found))
            assert told.startswith(f"{model} {quant} on {found.name}")


@pytest.mark.parametrize("hardware", [*GPUS, "cpu", "auto"])
def test_every_hardware_plans(hardware: str) -> None:
    [found] = forecasts([spec("qwen3-8b", "gptq-int4", hardware)])
    assert (found.device is None) <= (hardware in ("cpu", "auto"))
    assert answer(found).startswith("qwen3-8b gptq-int4")


def test_a_plan_imports_no_torch_and_asks_nobody(cli: Cli) -> None:
    code = (
        "import sys; from bench.run import main\n"
        "assert main(['+model=qwen3-235b-a22b', 'quant=fp8', 'hardware=h100', 'plan=true']) == 0\n"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'pandas', 'matplotlib', 'datasets'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cli.folder, env=cli.env, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert not (cli.folder / "results" / "runs").exists()


def test_a_sweep_is_planned_with_a_line_for_each_run(cli: Cli) -> None:
    done = cli("-m", "+model=qwen3-8b,qwen3-32b", "quant=bf16,fp8", "hardware=rtx4090", "plan=true")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if line.startswith("qwen3-")]
    assert [line.split()[:2] for line in lines] == [
        ["qwen3-8b", "bf16"], ["qwen3-8b", "fp8"], ["qwen3-32b", "bf16"], ["qwen3-32b", "fp8"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hardware=h1000", "plan=true"), "did you mean 'h100'?"),
        (("hardware=h100",), "a run measures the machine it runs on; add plan=true to plan"),
        (("plan=maybe",), "plan: input should be a valid boolean"),
    ],
)
def test_wrong_plans_are_told_in_one_line(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_job(["+model=qwen3-8b", *overrides])
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.0123, "12.3 ms"), (2, "2.0 s"), (90, "1.5 min"), (7200, "2.0 h")]
)
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
