"""The output of plans: tables, JSON and one line, for every model, quantization and machine."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import format as fmt
from bench.config.compose import compose_job, names, with_plus
from bench.errors import ConfigError
from bench.plan.announce import announce
from bench.plan.forecast import forecast, forecast_of
from bench.plan.preflight import preflight
from bench.plan.table import answer, show
from tests.support.forecasts import DEVICES, PARTS, spec
from tests.support.paths import ROOT
from tests.support.program import Cli

PAGE = (ROOT / "docs" / "planning.md").read_text()
Plan = Callable[..., str]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Return the output of a command with ``plan=true`` or ``plan=json``, in a new folder with a new cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))

    def printed(*arguments: str, columns: int = 200) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        show(preflight(with_plus(arguments)))
        return capsys.readouterr().out

    return printed


@pytest.mark.parametrize("model", [name for name in names("model") if name not in ("hub", "local")])
def test_every_model_plans_offline_in_every_core_quantization_on_every_device(model: str) -> None:
    plain = spec(model)
    for quant, part in PARTS.items():
        variant = plain.variant.model_copy(update={"quant": quant})
        run = plain.model_copy(update={"quant": part.quant, "variant": variant})
        for device in DEVICES.values():
            run_forecast = forecast(run, device, per_machine=8)
            assert answer(run_forecast).startswith(f"{model} {quant} on {device.name}: ")
            assert run_forecast.fit is not None


@pytest.mark.parametrize("hardware", names("hardware"))
def test_every_hardware_plans(hardware: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))  # where no CPU has been measured yet
    plan = forecast_of(spec("qwen3-8b", "gptq-int4", hardware))
    assert (plan.device is None) <= (hardware in ("cpu", "auto"))
    assert answer(plan).startswith("qwen3-8b gptq-int4")
    if plan.device is None:
        assert any("limits are measured by a first run" in remark for remark in plan.remarks)


def test_the_planned_machine_decides_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for gpu, own in ((True, "sglang"), (False, "transformers")):
        monkeypatch.setattr("bench.config.validate.has_cuda_device", lambda gpu=gpu: gpu)
        engines = {hardware: spec("qwen3-8b", "bf16", hardware).engine.name for hardware in ("h100", "cpu", "auto")}
        assert engines == {"h100": "sglang", "cpu": "transformers", "auto": own}


def test_a_plan_imports_no_torch_and_works_offline(cli: Cli) -> None:
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


def test_a_sweep_is_planned_with_a_row_for_each_run_and_each_note_once(plan: Plan) -> None:
    text = plan("-m", "+model=qwen3-8b,qwen3-32b", "quant=bf16,fp8", "hardware=rtx4090", "plan=true")
    rows = [line.split() for line in text.splitlines() if line.startswith("qwen3-")]
    assert [row[:2] for row in rows] == [
        ["qwen3-8b", "bf16"], ["qwen3-8b", "fp8"], ["qwen3-32b", "bf16"], ["qwen3-32b", "fp8"],
    ]  # fmt: skip
    assert "note (qwen3-32b bf16): type engine=sglang engine.tp_size=4" in text
    assert text.count("toolchain build sglang") == 1


def test_a_plan_that_does_not_fit_is_no_error(plan: Plan) -> None:
    text = plan("+model=qwen3-235b-a22b", "hardware=h100", "engine=transformers", "plan=true")
    assert ": does not fit" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("tp", "devices", "each", "on_each"),
    [
        (1, "1 device", "", ""),
        (2, "2 devices (tp 2)", " each", "on each, "),
        (4, "4 devices (tp 4)", " each", "on each, "),
    ],
)
def test_memory_is_that_of_each_device_if_there_are_several(
    tp: int, devices: str, each: str, on_each: str, plan: Plan
) -> None:
    text = plan("+model=qwen3-8b", "hardware=h100", "engine=sglang", f"engine.tp_size={tp}", "plan=true")
    assert re.search(rf"on NVIDIA H100.*: {re.escape(devices)}, \d+\.\d GB of 80\.0 GB{each}; at best", text)
    assert re.search(rf"sglang on {re.escape(devices)}: .* of keys and values {on_each}of \d+\.\d GB that", text)


def test_a_plan_can_be_printed_as_json(plan: Plan) -> None:
    text = plan("-m", "+model=qwen3-235b-a22b", "quant=bf16,fp8", "hardware=h100", "plan=json")
    assert [(run["quant"], run["devices"], run["trouble"]) for run in json.loads(text)] == [
        ("bf16", 8, None),
        ("fp8", 4, None),
    ]


def test_a_narrow_terminal_truncates_no_value(plan: Plan) -> None:
    more = ("hardware=h20", "workload=qwen", "context=131k", "accuracy=none", "plan=true")
    text = plan("+model=qwen3-8b", "quant=fp8", *more, columns=80)
    rows = [line for line in text.splitlines() if re.match(r" *129,024 ", line)]
    assert len(rows) == 1
    assert "…" not in text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("hardware=h1000", "plan=true"), "did you mean 'h100'?"),
        (("hardware=h100",), "a run measures this machine; add plan=true to plan for another"),
        (("plan=maybe",), "plan: input should be False, True or 'json'"),
    ],
)
def test_wrong_plans_are_reported_in_one_line(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_job(["+model=qwen3-8b", *overrides])
    assert message in str(error.value)


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12.3 ms"), (2, "2.0 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations_have_readable_units(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


def test_a_run_is_announced_with_its_least_time_and_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    measured = DEVICES["h20"].model_copy(update={"name": "some CPU", "measured": True})
    monkeypatch.setattr("bench.plan.forecast.kept_device", lambda *, cpu: measured)
    announced = [
        announce([compose_job([f"+model={model}", "engine=transformers", f"results_dir={tmp_path}"])], resumed=False)
        for model in ("qwen3-8b", "qwen3-235b-a22b")
    ]
    ((first,), (second, reason)) = announced
    assert re.fullmatch(
        r"qwen3-8b bf16: 3 cells of 3 trials, 3 tasks; cells at least \d+\.\d s on some CPU; no earlier run to .+",
        first,
    )
    assert "at least" not in second
    assert "are more than the" in reason


@pytest.mark.parametrize(
    ("line", "shown"), re.findall(r"```\n(python -m bench\.run [^\n]+)\n```\n\n```\n(.*?)```", PAGE, re.DOTALL)
)
def test_the_docs_show_the_output_of_a_plan(line: str, shown: str, plan: Plan) -> None:
    printed = plan(*line.split()[3:], columns=120)
    lines = [text.rstrip() for text in printed.splitlines() if "cannot run on this machine" not in text]
    assert lines == [text.rstrip() for text in shown.splitlines()]
