"""A pytest plugin for the run under coverage: records passed tests, their durations, and loaded modules."""

import json
import os
import sys
from pathlib import Path

import pytest

OUT = "QUANTBENCH_MUTANTS"
"""Environment variable with the folder to write to."""


def is_own(module: str) -> bool:
    """Return whether a module belongs to the tree, so that it may be mutated or import a mutant."""
    return module.partition(".")[0] in ("bench", "benchmarks", "quantize", "testkit", "tests")


class Recorder:
    """Records each test's result and duration, and writes them at the end of the session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Deselect tests that need the cache of checkpoints."""
        slow = [item for item in items if "cache" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the duration of a test's phase."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write ``tests-WORKER.json`` and ``modules-WORKER.json``."""
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        passed = {test: seconds for test, seconds in self.seconds.items() if test not in self.failed}
        (self.folder / f"tests-{worker}.json").write_text(json.dumps(passed))
        loaded = [name for name in sys.modules if not is_own(name)]
        (self.folder / f"modules-{worker}.json").write_text(json.dumps(loaded))


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder."""
    config.pluginmanager.register(Recorder(Path(os.environ[OUT])))
