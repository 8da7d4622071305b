"""The program as tests run it."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.paths import ROOT

EVERY = os.environ.get("QUANTBENCH_TEST_ALL") == "1"
"""Whether to run long tests that resemble others: `make test-all`."""
IMPORTED = ("bench.run", "bench.pipeline.execute", "bench.pipeline.finish", "bench.commands.results", "pandas")
"""What the program imports in most tests, in a second."""


def _run(module: str, arguments: Sequence[str], folder: Path, env: Mapping[str, str], outputs: Path) -> None:
    """Run a module as a program in this process."""
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(outputs / name, os.O_WRONLY)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


class Cli:
    """Runs the program as a user does: in a separate process and folder."""

    def __init__(self, cache: Path, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "QUANTBENCH_CACHE": str(cache), "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
        self.env.pop("QUANTBENCH_HUB", None)

    def argv(self, *arguments: str, module: str = "bench.run") -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def __call__(
        self, *arguments: str, module: str = "bench.run", timeout: float = 280, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end, in a process that starts with its libraries imported.

        Whatever happens while the interpreter exits is not seen; tests that start the program by :meth:`argv` see it.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(IMPORTED))
        argv = self.argv(*arguments, module=module)
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ("out", "err")]
            for file in outputs:
                file.touch()
            run = context.Process(target=_run, args=(module, arguments, self.folder, {**self.env, **env}, Path(folder)))
            run.start()
            try:
                run.join(timeout)
                if run.exitcode is None:
                    raise subprocess.TimeoutExpired(argv, timeout, *(file.read_bytes() for file in outputs))
            finally:  # also when the test is stopped
                run.kill()
                run.join()
            return subprocess.CompletedProcess(argv, run.exitcode, *(file.read_text() for file in outputs))
