"""Locked files, and the commands that work on a system without file locks."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quantize.locks import HeldError, held, hold, is_held
from testkit.records import keep, native_records
from tests.support.paths import ROOT

WITHOUT = """
import asyncio, psutil, subprocess, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
"""
"""Removes modules that Windows does not have; libraries that check the system are imported before."""


def without_locks(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_file_is_held_until_its_stream_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not is_held(file)
    with hold(file):
        assert is_held(file)
        with pytest.raises(HeldError, match=f"another process holds {file}"):
            hold(file)
    assert not is_held(file)


def test_a_file_is_held_by_whoever_inherits_it_and_free_when_that_one_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with held(file, on_wait=lambda: None) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    assert is_held(file)
    child.kill()
    child.wait()
    assert not is_held(file)


def test_waiting_is_reported_once_and_ends_when_the_file_is_free(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    waits: list[str] = []
    first = hold(file)
    timer = threading.Timer(0.3, first.close)
    timer.start()
    with held(file, on_wait=lambda: waits.append("waiting")):
        assert first.closed
    timer.join()
    assert waits == ["waiting"]


def test_commands_that_read_results_run_on_a_system_without_file_locks(tmp_path: Path) -> None:
    for record in native_records():
        keep(tmp_path, record)
    code = "from bench.commands.{0} import main; sys.exit(main(sys.argv[1:]))"
    for command, words in {"compare": ("bf16", "fp8"), "decide": ("decode@1k>=1",), "export": ()}.items():
        done = without_locks(code.format(command), *words, "--results", str(tmp_path))
        assert (done.returncode, done.stderr) == (0, ""), command
    done = without_locks("import bench.plan.table, bench.report.page, bench.commands.website, bench.run")
    assert done.returncode == 0, done.stderr


def test_what_takes_a_lock_there_names_what_works(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from bench.errors import StoreError
from bench.records.store import Store
try:
    Store(Path(sys.argv[1])).create("run")
except StoreError as error:
    print(error)
"""
    done = without_locks(code, str(tmp_path))
    assert "this system has no file locks (Python's fcntl): run, build and quantize on Linux" in done.stdout
    assert done.stdout.count("\n") == 1
