"""Run tests on mutants, in a process that has imported the tests' dependencies and forks for every mutant.

Run ``python -m benchmarks.mutants.worker DATA`` in the root of a copy of the tree. It reads a line of JSON for every
mutant and prints a line of JSON: the failed tests, and how the process ended.
"""

import importlib
import json
import os
import resource
import select
import signal
import sys
import traceback
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from benchmarks.mutants.plugin import is_own

MEMORY_BYTES = 16 * 2**30
"""Limit on the address space of a process that runs tests, because a mutant may allocate any amount."""
WAIT = 5


class Failures:
    """Collects the failed tests."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a failure."""
        if report.failed:
            self.tests.append(report.nodeid)


def warm_up(modules: list[str]) -> None:
    """Import the tests' dependencies outside the tree, so that they are not imported for every mutant."""
    with redirect_stdout(sys.stderr):
        for name in modules:
            with suppress(ImportError):
                importlib.import_module(name)
    if loaded := [name for name in sys.modules if is_own(name) and not name.startswith("benchmarks")]:
        raise RuntimeError(f"mutants of modules that are already imported would be missed: {', '.join(loaded)}")
    # Failing examples are not shrunk, and no test may fail because another process has the core.
    settings.register_profile(
        "mutants", phases=[Phase.explicit, Phase.generate], database=None, deadline=None, derandomize=True
    )
    settings.load_profile("mutants")


def run_tests(tests: list[str], stop: bool, limit_s: int, out: Path) -> int:
    """Run tests in this process and write the failed ones to ``out``."""
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
    failures = Failures()
    # Plugins are already imported, so their assertions are not rewritten, which does not matter.
    options = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", *(["-x"] if stop else [])]
    code = int(pytest.main([*options, *tests], plugins=[failures]))
    out.write_text(json.dumps(failures.tests))
    return code


def fork(tests: list[str], stop: bool, limit_s: int, out: Path) -> dict[str, Any]:
    """Run tests in a forked process; return its exit code (None: above the limit) and the failed tests.

    The limit is on CPU time, so that it does not depend on other load of the machine; a process that waits may take
    `WAIT` times as long.
    """
    out.write_text("[]")
    pid = os.fork()
    if not pid:
        os.setsid()
        code = 70
        try:
            code = run_tests(tests, stop, limit_s, out)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    handle = os.pidfd_open(pid)
    ended, _, _ = select.select([handle], [], [], WAIT * limit_s)
    os.close(handle)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "exit": None if not ended or code == -signal.SIGXCPU else code,
        "failed": json.loads(out.read_text()),
        "log": str(out.with_suffix(".log")),
    }


def main(data: Path) -> None:
    """Answer each line of standard input."""
    modules = dict.fromkeys(
        name for file in sorted(data.glob("modules-*.json")) for name in json.loads(file.read_text())
    )
    warm_up(list(modules))
    out = data / f"failed-{os.getpid()}.json"
    for number, line in enumerate(sys.stdin, start=1):
        job = json.loads(line)
        file = Path(job["file"]) if job["file"] else None
        if file:
            original, times = file.read_bytes(), file.stat()
            file.write_text(job["source"])
            os.utime(file, (number, number))  # a unique time, so that the bytecode of another mutant is not used
        answer = fork(job["tests"], job["stop"], job["limit_s"], out)
        if file:
            file.write_bytes(original)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
