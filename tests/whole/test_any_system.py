"""Reading and planning work on any system; a run reports that it needs a POSIX system."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import bench.analysis
import bench.history
import bench.plan
import bench.report
from testkit.records import keep, native_records
from tests.support.paths import ROOT

POSIX_ONLY = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty", "uvloop")
"""Modules that other systems lack or do not install."""
ELSEWHERE = f"""
import importlib, os, runpy, signal, sys
import aiohttp, hydra, matplotlib.pyplot, multiprocessing, pandas, psutil, rich.console, scipy.stats, subprocess, yaml
for name in {POSIX_ONLY}:
    sys.modules[name] = None
for name in ("getuid", "killpg", "getpgid", "setsid", "sysconf", "sched_getaffinity", "statvfs", "uname"):
    delattr(os, name)
for name in ("SIGKILL", "SIGSTOP", "SIGCONT", "SIGHUP", "setitimer"):
    delattr(signal, name)
"""
"""Makes of this process one on a system that is not POSIX; what others import of these modules is imported before."""
COMMANDS = ("compare", "decide", "export", "results", "website")
MODULES = (
    "bench.cli",
    "bench.run",
    "bench.config.compose",
    "bench.published.figures",
    *(f"bench.commands.{name}" for name in COMMANDS),
    *(
        module.name
        for package in (bench.analysis, bench.history, bench.plan, bench.report)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ),
)


def elsewhere(script: str, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE + script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QUANTBENCH_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )


def quantbench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return elsewhere("from bench.cli import main; sys.exit(main())", *words, folder=folder)


def test_the_modules_that_read_and_plan_can_be_imported() -> None:
    done = elsewhere("for name in sys.argv[1:]:\n    importlib.import_module(name)", *MODULES)
    assert done.returncode == 0, done.stderr


def test_results_are_compared_decided_on_and_shown(tmp_path: Path) -> None:
    for run in native_records():
        keep(tmp_path / "results", run)
    for words in (["compare", "bf16", "fp8"], ["decide"], ["site", "build", "--out", "site"], ["results", "list"]):
        done = quantbench(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


@pytest.mark.parametrize(("hardware", "shown"), [("h100", "NVIDIA H100"), ("auto", "qwen3-8b")])
def test_a_run_is_planned(tmp_path: Path, hardware: str, shown: str) -> None:
    done = quantbench(tmp_path, "run", "+model=qwen3-8b", "quant=fp8", f"hardware={hardware}", "plan=true")
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_a_run_reports_which_system_it_needs(tmp_path: Path) -> None:
    done = quantbench(tmp_path, "run", "+model=tiny-qwen3", "workload=none", "accuracy=none")
    assert done.returncode == 2
    assert "a run needs a POSIX system, such as Linux" in done.stdout + done.stderr
    assert "plan=true" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


LOOP = """
import asyncio, json
from bench.machine.environment import read_environment
from bench.speed.client import run
async def name():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
print(json.dumps([run(name()), read_environment().event_loop]))
"""


WITHOUT = "import sys\nsys.modules['uvloop'] = None\n"


@pytest.mark.parametrize(("before", "loop"), [("", "uvloop"), (WITHOUT, "asyncio")])
def test_the_client_runs_on_the_loop_that_the_record_names(before: str, loop: str) -> None:
    done = subprocess.run([sys.executable, "-c", before + LOOP], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f'["{loop}", "{loop}"]\n', done.stderr
