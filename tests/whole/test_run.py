"""The whole program on a tiny model with random weights: real worker, real server, real HTTP, real lm-eval."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.config.compose import names
from bench.report.rows import COLUMNS
from tests.support.paths import ROOT
from tests.support.program import Cli
from tests.support.runs import checkpoint_of, records, server_pids, wait_until

SPEED = ["workload.input_lens=[1,64,140000]", "workload.output_len=16", "workload.trials=2", "accuracy=none"]


@pytest.fixture(scope="module")
def sweep(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, subprocess.CompletedProcess[str]]:
    cli = Cli(cache, tmp_path_factory.mktemp("sweep"))
    return cli, cli("-m", "model=tiny-qwen3", "quant=bf16,fp8", *SPEED)


@pytest.mark.long
def test_a_sweep_measures_each_variant_and_writes_one_report(
    sweep: tuple[Cli, subprocess.CompletedProcess[str]],
) -> None:
    cli, done = sweep
    assert done.returncode == 0, done.stderr
    sweep = records(cli.folder)
    assert [record.variant.quant for record in sweep] == ["bf16", "fp8"]
    assert len({record.session for record in sweep}) == 1
    for record, status in zip(sweep, ("ok", "emulated"), strict=True):
        assert [(cell.input_len, cell.status) for cell in record.cells] == [
            (1, status),
            (64, status),
            (140000, "not_supported"),
        ]
        for cell in record.cells[:2]:
            assert len(cell.trials) == 2
            for trial in cell.trials:
                assert trial.peak_memory_bytes > 0
                (request,) = trial.requests
                assert (request.prompt_tokens, request.completion_tokens, request.cached_tokens) == (
                    cell.input_len,
                    16,
                    0,
                )
                assert sum(request.event_tokens) == 16
        assert "131072" in record.cells[2].reasons[0]
        assert record.checkpoint is not None
        assert record.engine_info.version
        assert not record.failures
    assert sweep[0].checkpoint.tensors_by_dtype == {"BF16": 24}
    assert sweep[1].checkpoint.tensors_by_dtype == {"BF16": 24, "F8_E4M3": 14}
    own = {cli.folder / "reports" / f"{record.run_id}.html" for record in sweep}
    whole = cli.folder / "reports" / f"{sweep[0].session}.html"
    assert set(cli.folder.glob("reports/*.html")) == {*own, whole}
    assert f"report: {whole}" in done.stdout
    assert not server_pids(Path(cli.env["QUANTBENCH_CACHE"]))


@pytest.mark.long
def test_a_second_run_quantizes_nothing_and_reports_why(sweep: tuple[Cli, subprocess.CompletedProcess[str]]) -> None:
    cli, _ = sweep
    done = cli("+model=tiny-qwen3", "quant=fp8", "workload=none", "accuracy=none")
    assert done.returncode == 0, done.stderr
    assert "fp8 of tiny-qwen3: reused (same key" in done.stderr
    assert "building" not in done.stderr


@pytest.mark.long
def test_export_has_a_row_for_every_cell(sweep: tuple[Cli, subprocess.CompletedProcess[str]]) -> None:
    cli, _ = sweep
    done = cli("export", "--format", "csv", module="bench.cli")
    rows = [row for row in csv.DictReader(io.StringIO(done.stdout)) if row["input_len"]]
    assert list(rows[0]) == list(COLUMNS)
    by_shape = {(row["quant"], row["input_len"]): row for row in rows}
    assert float(by_shape["bf16", "64"]["ttft_s"]) > 0
    assert float(by_shape["bf16", "64"]["decode_tokens_per_s"]) > 0
    assert by_shape["fp8", "140000"]["status"] == "not_supported"
    assert by_shape["fp8", "140000"]["ttft_s"] == ""
    as_json = json.loads(cli("export", "--format", "json", module="bench.cli").stdout)
    assert {row["status"] for row in as_json} == {"ok", "emulated", "not_supported"}


@pytest.mark.long
def test_accuracy_runs_on_the_served_model_and_is_reused(cli: Cli) -> None:
    command = ["+model=tiny-qwen3", "workload=none", "accuracy.limit=3", "accuracy.max_gen_toks=8"]
    command.append("accuracy.max_share.empty=1")  # random weights may generate no visible text
    first = cli(*command)
    assert first.returncode == 0, first.stderr
    (record,) = records(cli.folder)
    assert {score.task for score in record.scores} == {"mini-mmlu", "mini-ceval", "mini-ifeval"}
    for score in record.scores:
        assert score.n_items == len(score.items) == 3
        assert score.status == "ok"
        assert score.metrics
        assert all(item.doc_hash and item.prompt_hash for item in score.items)
    choices = next(score for score in record.scores if score.task == "mini-mmlu")
    assert all(len(item.logprobs) == 4 for item in choices.items)
    second = cli(*command)
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("reused from run") == 3
    assert records(cli.folder)[1].scores == record.scores


@pytest.mark.long
def test_killed_at_any_moment_it_resumes_from_there(cli: Cli, cache: Path) -> None:
    command = ["+model=tiny-qwen3", "workload.input_lens=[1,2,3,4,5,6,7,8]", "workload.output_len=64", "accuracy=none"]
    run = subprocess.Popen(
        cli.argv(*command), cwd=cli.folder, env=cli.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(cli.folder.glob("results/runs/*/cells/*.json"))) >= 2)
    servers = [psutil.Process(pid) for pid in server_pids(cache)]
    run.kill()
    run.wait()
    before = {file.name: file.read_bytes() for file in cli.folder.glob("results/runs/*/cells/*.json")}
    assert 2 <= len(before) < 8
    wait_until(lambda: not any(server.is_running() and server.status() != "zombie" for server in servers), 20)
    again = cli(*command)
    assert again.returncode == 0, again.stderr
    assert "resuming the interrupted run" in again.stderr
    (record,) = records(cli.folder)
    assert [cell.status for cell in record.cells] == ["ok"] * 8
    now = {file.name: file.read_bytes() for file in cli.folder.glob("results/runs/*/cells/*.json")}
    assert {name: now[name] for name in before} == before


@pytest.mark.long
def test_a_server_that_dies_costs_one_cell_and_is_restarted(cli: Cli, cache: Path) -> None:
    lens = [1, 2, 3]
    command = [
        "+model=tiny-qwen3",
        f"workload.input_lens={lens}".replace(" ", ""),
        "workload.output_len=300",  # so that it dies during a request
        "workload.trials=3",
        "accuracy=none",
    ]
    run = subprocess.Popen(cli.argv(*command), cwd=cli.folder, env=cli.env, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(cli.folder.glob("results/runs/*/cells/*.json")))
    time.sleep(0.5)  # the next cell has begun
    for pid in server_pids(cache):
        psutil.Process(pid).kill()
    _, output = run.communicate(timeout=120)
    assert run.returncode == 1, output
    assert "was killed by SIGKILL" in output
    (record,) = records(cli.folder)
    assert sorted(cell.input_len for cell in record.cells) == lens
    assert sorted(cell.status for cell in record.cells) == ["failed", "ok", "ok"]
    assert not server_pids(cache)


@pytest.mark.long
def test_an_interrupted_sweep_does_not_repeat_finished_runs(cli: Cli) -> None:
    command = ["-m", "+model=tiny-qwen3", "seed=5,6", "workload.input_lens=[1,2]", "workload.trials=1", "accuracy=none"]
    run = subprocess.Popen(
        cli.argv(*command), cwd=cli.folder, env=cli.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(cli.folder.glob("results/runs/*/run.json"))) == 2)
    run.kill()
    run.wait()
    (done,) = records(cli.folder)
    again = cli(*command)
    assert again.returncode == 0, again.stderr
    assert "resuming the interrupted command" in again.stderr
    assert f"finished before this command was interrupted: run {done.run_id}" in again.stderr
    assert len(records(cli.folder)) == 2
    assert len({record.session for record in records(cli.folder)}) == 1
    assert not list((cli.folder / "results" / "sessions").iterdir()), "the same command starts a new session"


@pytest.mark.long
def test_interrupted_it_leaves_nothing_running(cli: Cli, cache: Path) -> None:
    lens = "workload.input_lens=[1,2,3,4,5,6,7,8]"
    command = ["+model=tiny-qwen3", lens, "workload.output_len=200", "accuracy=none"]
    run = subprocess.Popen(cli.argv(*command), cwd=cli.folder, env=cli.env, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(cli.folder.glob("results/runs/*/cells/*.json")))
    servers = [psutil.Process(pid) for pid in server_pids(cache)]
    run.send_signal(signal.SIGINT)
    _, output = run.communicate(timeout=60)
    assert run.returncode == 130, output
    assert "interrupted" in output
    assert "Traceback" not in output
    assert not any(server.is_running() and server.status() != "zombie" for server in servers)


@pytest.mark.long
def test_a_server_that_does_not_start_fails_the_run_and_is_ended(cli: Cli, cache: Path) -> None:
    late = cli("+model=tiny-qwen3", "accuracy=none", "engine.startup_timeout_s=0.3")
    assert late.returncode == 1
    assert "was not ready in time" in late.stderr
    assert "engine.startup_timeout_s=" in late.stderr
    dead = cli("+model=tiny-qwen3", "accuracy=none", "engine.device=cuda", CUDA_VISIBLE_DEVICES="")
    assert dead.returncode == 1
    assert "no CUDA device" in dead.stderr
    assert "Traceback" not in late.stderr + dead.stderr
    assert not server_pids(cache)
    for record in records(cli.folder):
        assert [failure.stage for failure in record.failures] == ["serve"]
        assert record.checkpoint is not None


WRONG = {
    "no model": ([], "which model?"),
    "typo in a name": (["+model=tiny-qwen3", "quant=fp9"], "did you mean 'fp8'"),
    "typo in a field": (["+model=tiny-qwen3", "workload.trails=1"], "did you mean 'trials'"),
    "a sweep without -m": (["+model=tiny-qwen3", "quant=bf16,fp8"], "need -m"),
    "the last of a sweep": (["-m", "+model=tiny-qwen3", "quant=bf16,fp9"], "no such quant"),
    "impossible": (["+model=smollm2-135m", "quant=gptq-int4", "quant.group_size_fallback=[]"], "does not divide"),
    "wrong type": (["+model=tiny-qwen3", "workload.output_len=long"], "workload.output_len"),
    "unknown task": (["+model=tiny-qwen3", "accuracy.tasks=[mmluu]"], "did you mean 'mmlu'"),
    "mirror missing": (["+model=tiny-qwen3", "accuracy=full", "accuracy.hub_dir=/no"], "is not a folder"),
    "unknown section": (
        ["+model=tiny-qwen3", "+workloda.trials=1"],
        "workloda: no such field; did you mean 'workload'",
    ),
    "config folder missing": (["-cd", "/no/such", "+model=tiny-qwen3"], "/no/such: no such folder"),
    "unwritable results": (["+model=tiny-qwen3", "results_dir=/proc/no"], "choose another folder with results_dir="),
    "negative examples": (["+model=tiny-qwen3", "accuracy.num_fewshot=-2"], "accuracy.num_fewshot: input should be"),
    "unknown flag": (["--no-such-flag", "+model=tiny-qwen3"], "no such flag"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_gets_a_clear_line_and_exit_code_2(cli: Cli, case: str) -> None:
    arguments, expected = WRONG[case]
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (cli.folder / "results").exists()


def test_an_unwritable_results_folder_gets_a_clear_line(cli: Cli) -> None:
    (cli.folder / "results").write_text("in the way")
    done = cli("+model=tiny-qwen3", "workload=none", "accuracy=none")
    assert done.returncode == 2
    assert "results_dir=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_model_without_the_hub_gets_one_clear_line(cli: Cli) -> None:
    done = cli("+model=qwen3-8b", "accuracy=none", HF_HUB_OFFLINE="1", HF_HOME=str(cli.folder / "hf"))
    assert done.returncode == 1
    assert "cannot reach the hub for Qwen/Qwen3-8B@main" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_damaged_checkpoint_is_rebuilt(cli: Cli, cache: Path, tmp_path: Path) -> None:
    assert cli("+model=tiny-qwen3", "workload=none", "accuracy=none").returncode == 0
    own = tmp_path / "own"
    (record,) = records(cli.folder)
    folder = checkpoint_of(cache, record)
    copied = own / "checkpoints" / folder.name
    shutil.copytree(folder, copied)
    for source in (cache / "sources").glob("tiny-qwen3-[0-9a-f]*[0-9a-f]"):
        shutil.copytree(source, own / "sources" / source.name)
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    done = cli("+model=tiny-qwen3", "workload=none", "accuracy=none", QUANTBENCH_CACHE=str(own))
    assert done.returncode == 0, done.stderr
    assert "the published one is damaged" in done.stderr


def test_help_loads_fast_and_names_every_group(cli: Cli) -> None:
    done = cli("--help")
    assert done.returncode == 0, done.stderr
    for word in (f"quant: {', '.join(names('quant'))}", "smollm2-135m", "Exit codes", "workload.trials=5"):
        assert word in done.stdout
    heavy = "import sys, bench.run, bench.plan.stages, quantize.methods.awq, quantize.sources.hub\n" + (
        "assert not {'torch', 'transformers', 'lm_eval', 'pandas', 'matplotlib'} & set(sys.modules), sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", heavy], cwd=ROOT).returncode == 0


def test_completion_knows_commands_groups_and_names(cli: Cli) -> None:
    def ask(line: str) -> str:
        return cli("-sc", "query=bash", module="bench.cli", COMP_LINE=line, COMP_POINT=str(len(line))).stdout

    assert "run" in ask("quantbench ")
    assert "quant=" in ask("quantbench run qu")
    assert "quant=gptq-int4" in ask("quantbench run quant=g")
    assert "model=smollm2-135m" in ask("quantbench run model=")
    assert "workload.trials=" in ask("quantbench run workload.tr")
    assert "complete" in cli("-sc", "install=bash", module="bench.cli").stdout


@pytest.mark.long
def test_the_wheel_works_from_anywhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "site"
    shutil.unpack_archive(wheel, place, "zip")
    shipped = place / "bench" / "configs"
    assert {file.relative_to(shipped) for file in shipped.rglob("*.yaml")} == {
        file.relative_to(ROOT / "configs") for file in (ROOT / "configs").rglob("*.yaml")
    }
    env = {**os.environ, "PYTHONPATH": str(place), "QUANTBENCH_CACHE": str(tmp_path / "cache")}
    away = tmp_path / "away"
    away.mkdir()
    command = [sys.executable, "-m", "bench.run", "+model=tiny-qwen3", "quant=fp8", "workload=none", "accuracy=none"]
    done = subprocess.run(command, cwd=away, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(away.glob("reports/*.html"))
    where = subprocess.run(
        [sys.executable, "-c", "import bench; print(bench.__file__)"], cwd=away, env=env, capture_output=True, text=True
    )
    assert where.stdout.startswith(str(place))
