"""Jobs in several processes leave the same records as jobs in sequence, even if a worker dies."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.errors import ConfigError
from bench.machine import lease
from bench.pipeline.session import CommandSession, attempt_of
from bench.plan.preflight import check_launcher, launches_elsewhere
from bench.records.record import RunRecord
from bench.records.store import Store, unfinished_places
from testkit.records import environment, record
from tests.support.paths import ROOT
from tests.support.program import EVERY, Cli
from tests.support.runs import wait_until

SWEEP = (
    "-m", "+model=tiny-qwen3", "workload.input_lens=[8]", "workload.output_len=4", "workload.trials=1",
    "workload.concurrency=1", "accuracy.tasks=[mini-mmlu]", "accuracy.limit=2", "accuracy.at_least=2",
)  # fmt: skip
QUANTS = ("bf16", "fp8", "int8-w8a8", "rtn-int4", "rtn-int8") if EVERY else ("bf16", "fp8")


def has(package: str) -> bool:
    return importlib.util.find_spec("hydra_plugins") is not None and (
        importlib.util.find_spec(f"hydra_plugins.{package}") is not None
    )


def records(results: Path) -> list[RunRecord]:
    files = sorted(results.glob("runs/*/record.json"))
    return [RunRecord.model_validate_json(file.read_bytes()) for file in files]


def comparable(results: Path) -> dict[str, Any]:
    """Return the parts of the records that must not depend on the launcher, by variant."""
    return {
        record.variant.quant: (
            record.key,
            [(cell.input_len, cell.status, len(cell.trials)) for cell in record.cells],
            [
                (score.task, score.status, score.metrics, [item.logprobs for item in score.items])
                for score in record.scores
            ],
            record.failures,
        )
        for record in records(results)
    }


@pytest.fixture(scope="module")
def serial(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("serial")
    done = Cli(cache, folder)(*SWEEP, f"quant={','.join(QUANTS)}", timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, comparable(folder / "results")


def workers(parent: psutil.Process) -> list[psutil.Process]:
    running = []
    for process in parent.children(recursive=True):
        try:
            if "ray::" in " ".join(process.cmdline()):
                running.append(process)
        except psutil.Error:
            continue
    return running


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not has("hydra_ray_launcher"), reason="pip install 'quantbench[cluster]'")
@pytest.mark.skipif(not EVERY, reason="takes minutes: make test-all")
def test_a_ray_run_with_a_killed_worker_leaves_the_records_of_a_serial_one(
    cli: Cli, serial: tuple[Path, dict[str, Any]]
) -> None:
    argv = cli.argv(*SWEEP, f"quant={','.join(QUANTS)}", "hydra/launcher=ray")
    run = subprocess.Popen(
        argv, cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    own = psutil.Process(run.pid)
    wait_until(lambda: run.poll() is not None or list(cli.folder.glob("results/runs/*/run.json")), 240)
    time.sleep(3)
    busy = [worker for worker in workers(own) if "_run_job" in " ".join(worker.cmdline())]
    assert busy, "a worker of Ray's is running a job"
    busy[0].kill()
    output, _ = run.communicate(timeout=400)
    assert run.returncode == 0, output
    assert comparable(cli.folder / "results") == serial[1]
    assert len(records(cli.folder / "results")) == len(QUANTS), "nothing twice"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("launcher", "package", "more"),
    [
        ("joblib", "hydra_joblib_launcher", ("hydra.launcher.n_jobs=2",)),
        pytest.param(
            "submitit_local",
            "hydra_submitit_launcher",
            ("hydra.launcher.timeout_min=10",),
            marks=pytest.mark.skipif(not EVERY, reason="resembles the other: make test-all"),
        ),
    ],
)
def test_other_launchers_leave_the_same_records(
    cli: Cli, serial: tuple[Path, dict[str, Any]], launcher: str, package: str, more: tuple[str, ...]
) -> None:
    if not has(package):
        pytest.skip("pip install 'quantbench[cluster]'")
    argv = cli.argv(*SWEEP, f"quant={','.join(QUANTS)}", f"hydra/launcher={launcher}", *more)
    done = subprocess.run(argv, cwd=cli.folder, env=cli.env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert comparable(cli.folder / "results") == serial[1]
    assert "Traceback" not in done.stderr


def test_an_unknown_launcher_is_reported_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'ray'"):
        check_launcher(["hydra/launcher=rey"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=ray needs a package: pip install 'quantbench\[cluster\]'"):
        check_launcher(["hydra/launcher=ray"])
    check_launcher(["hydra/launcher=basic", "quant=fp8"])
    assert launches_elsewhere(["-m", "hydra/launcher=joblib"])
    assert not launches_elsewhere(["-m", "hydra/launcher=basic"])


HOLD = """
import sys, time
from bench.machine.lease import lease_devices
with lease_devices(1, on_cpu=True, on_wait=lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_run_at_a_time_computes_on_a_cpu_and_a_dead_run_releases_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    env = {**cli.env, "QUANTBENCH_CACHE": str(tmp_path)}
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=env)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    waited = []

    def wait() -> None:
        waited.append(time.monotonic())
        other.kill()

    with lease.lease_devices(1, on_cpu=True, on_wait=wait) as held:
        assert held == ()
    assert waited
    other.wait()
    other.stdout.close()


def test_runs_lease_separate_devices_and_pass_their_own_to_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(lease, "visible", lambda: ["2", "5", "7"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    with lease.lease_devices(1, on_cpu=False, on_wait=pytest.fail) as first:
        assert (first, os.environ["CUDA_VISIBLE_DEVICES"]) == (("2",), "2")
        with lease.lease_devices(2, on_cpu=False, on_wait=pytest.fail) as second:
            assert (second, os.environ["CUDA_VISIBLE_DEVICES"]) == (("5", "7"), "5,7")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5,7"
    with lease.lease_devices(8, on_cpu=False, on_wait=pytest.fail) as everything:
        assert everything == ("2", "5", "7"), "more than there are: all of them"


def test_the_unfinished_jobs_of_a_session_are_known(tmp_path: Path) -> None:
    with CommandSession(tmp_path, ["-m", "x"]) as session:
        store = Store(tmp_path)
        for number, ended in ((1, "2026-11-26T03:00:00+00:00"), (2, None)):
            run = record(
                "bf16", run_id=f"run-{number}", session=session.name, command=(f"quant={number}",), finished_at=ended
            )
            folder = store.create(run.run_id)
            folder.begin(run)
            if ended:
                folder.finish(run)
            folder.release()
        assert unfinished_places(tmp_path, session.name, [("quant=1",), ("quant=2",), ("quant=3",)]) == [1, 2]
        first = attempt_of(tmp_path, session.name)
        session.begin_attempt()
        assert first is not None
        assert (attempt_of(tmp_path, session.name) or "") > first
    assert attempt_of(tmp_path, session.name) is None


def test_a_run_that_another_machine_of_the_cluster_finished_counts_as_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = record("bf16", session="s", cells=(), scores=(), environment=environment(hostname="node-1"))
    folder = store.create(run.run_id)
    folder.begin(run)
    folder.finish(run)
    folder.release()
    assert store.find_done("s", run.key, environment(hostname="node-2")) is not None
    assert store.find_done("s", run.key, environment(hostname="node-2", cpu_cores=64)) is None


EXAMPLE = ROOT / "examples" / "slurm-235b.sbatch"


def test_the_example_for_slurm_is_a_script_whose_plan_fits(cli: Cli, tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(EXAMPLE)], check=False).returncode == 0
    text = EXAMPLE.read_text()
    [command] = re.findall(r"python -m bench.run (.+?)\n'", text, re.DOTALL)
    known = {'"$SLURM_NODEID"': "0", '"$0:5000"': "node-0:5000", '"results-$SLURM_NODEID"': "results"}
    for shell, value in known.items():
        command = command.replace(shell, value)
    words = shlex.split(command.replace("\\\n", " "))
    done = cli(*words, "hardware=h100", "plan=true")
    assert done.returncode == 0, done.stderr
    assert "16 devices (tp 8, pp 2)" in done.stdout
    assert "does not" not in done.stdout
    nodes = re.search(r"#SBATCH --nodes=(\d+)", text)
    gpus = re.search(r"#SBATCH --gpus-per-node=(\d+)", text)
    assert nodes is not None
    assert gpus is not None
    assert int(nodes[1]) * int(gpus[1]) == 16


def test_slurm_accepts_the_example() -> None:
    """``sbatch --test-only`` needs a cluster; without one Slurm still parses the script's options."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        pytest.skip("no sbatch here")
    done = subprocess.run([sbatch, "--test-only", str(EXAMPLE)], capture_output=True, text=True, check=False)
    if "generic resource" in done.stderr or "configuration is not available" in done.stderr:
        pytest.skip(f"this cluster has no such nodes: {done.stderr.strip()}")
    assert "unrecognized" not in done.stderr
    assert "Invalid" not in done.stderr
