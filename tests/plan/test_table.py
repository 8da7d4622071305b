"""Plans as people ask for them: every model, quantization and machine, in tables, as data, and in one line."""

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
    """Return what a command with ``plan=true`` or ``plan=json`` prints, in a folder and with a cache of its own."""
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
        one = plain.model_copy(update={"quant": part.quant, "variant": variant})
        for found in DEVICES.values():
            told = forecast(one, found, per_machine=8)
            assert answer(told).startswith(f"{model} {quant} on {found.name}: ")
            assert told.fit is not None


@pytest.mark.parametrize("hardware", names("hardware"))
def test_every_hardware_plans(hardware: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))  # where no CPU was measured yet
    found = forecast_of(spec("qwen3-8b", "gptq-int4", hardware))
    assert (found.device is None) <= (hardware in ("cpu", "auto"))
    assert answer(found).startswith("qwen3-8b gptq-int4")
    if found.device is None:
        assert any("measured by a first run" in remark for remark in found.remarks)


def test_the_machine_that_is_planned_for_chooses_the_engine_not_the_one_that_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for gpu, here in ((True, "sglang"), (False, "transformers")):
        monkeypatch.setattr("bench.config.validate.has_cuda_device", lambda gpu=gpu: gpu)
        found = {hardware: spec("qwen3-8b", "bf16", hardware).engine.name for hardware in ("h100", "cpu", "auto")}
        assert found == {"h100": "sglang", "cpu": "transformers", "auto": here}


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


def test_a_sweep_is_planned_with_a_row_for_each_run_and_each_note_once(plan: Plan) -> None:
    text = plan("-m", "+model=qwen3-8b,qwen3-32b", "quant=bf16,fp8", "hardware=rtx4090", "plan=true")
    rows = [line.split() for line in text.splitlines() if line.startswith("qwen3-")]
    assert [row[:2] for row in rows] == [
        ["qwen3-8b", "bf16"], ["qwen3-8b", "fp8"], ["qwen3-32b", "bf16"], ["qwen3-32b", "fp8"],
    ]  # fmt: skip
    assert "note (qwen3-32b bf16): type engine=sglang engine.tp_size=4" in text
    assert text.count("toolchain build sglang") == 1


def test_what_does_not_fit_is_no_error(plan: Plan) -> None:
    text = plan("+model=qwen3-235b-a22b", "hardware=h100", "engine=transformers", "plan=true")
    assert ": does not fit" in text.splitlines()[0]


def test_a_plan_is_had_as_data(plan: Plan) -> None:
    text = plan("-m", "+model=qwen3-235b-a22b", "quant=bf16,fp8", "hardware=h100", "plan=json")
    assert [(one["quant"], one["devices"], one["trouble"]) for one in json.loads(text)] == [
        ("bf16", 8, None),
        ("fp8", 4, None),
    ]


def test_a_narrow_terminal_shows_every_figure_whole(plan: Plan) -> None:
    more = ("hardware=h20", "workload=qwen", "context=131k", "accuracy=none", "plan=true")
    text = plan("+model=qwen3-8b", "quant=fp8", *more, columns=80)
    rows = [line for line in text.splitlines() if re.match(r" *129,024 ", line)]
    assert len(rows) == 1
    assert "…" not in text


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hardware=h1000", "plan=true"), "did you mean 'h100'?"),
        (("hardware=h100",), "a run measures the machine it runs on; add plan=true to plan"),
        (("plan=maybe",), "plan: input should be False, True or 'json'"),
    ],
)
def test_wrong_plans_are_told_in_one_line(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_job(["+model=qwen3-8b", *overrides])
    assert said in str(error.value)


@pytest.mark.parametrize(("seconds", "text"), [(0.0123, "12.3 ms"), (2, "2.0 s"), (90, "1.5 min"), (7200, "2.0 h")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


def test_a_run_is_announced_with_its_least_time_and_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    measured = DEVICES["h20"].model_copy(update={"name": "some CPU", "measured": True})
    monkeypatch.setattr("bench.plan.forecast.kept_device", lambda *, cpu: measured)
    told = [
        announce([compose_job([f"+model={model}", "engine=transformers", f"results_dir={tmp_path}"])], resumed=False)
        for model in ("qwen3-8b", "qwen3-235b-a22b")
    ]
    ((first,), (second, reason)) = told
    assert re.fullmatch(
        r"qwen3-8b bf16: 3 cells of 3 trials, 3 tasks; cells at least \d+\.\d s on some CPU; no earlier run to .+",
        first,
    )
    assert "at least" not in second
    assert "are more than the" in reason


@pytest.mark.parametrize(
    ("line", "shown"), re.findall(r"```\n(python -m bench\.run [^\n]+)\n```\n\n```\n(.*?)```", PAGE, re.DOTALL)
)
def test_the_docs_show_what_a_plan_prints(line: str, shown: str, plan: Plan) -> None:
    printed = plan(*line.split()[3:], columns=120)
    here = [text.rstrip() for text in printed.splitlines() if "not here as it is" not in text]
    assert here == [text.rstrip() for text in shown.splitlines()]
