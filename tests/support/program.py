"""The program as tests run it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

EVERY = os.environ.get("QUANTBENCH_TEST_ALL") == "1"
"""Whether to run long tests that resemble others: `make test-all`."""


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
        return subprocess.run(
            self.argv(*arguments, module=module),
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
