"""Shared fixtures: all tests of a session share their checkpoints, so that each is built once."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.program import Cli

# Several processes share the cores: threads that spin while waiting block the others, which makes torch's small steps
# ten times slower or more.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# An nvidia-smi without devices: engine=auto is the reference server in all tests, also on a machine with a GPU.
os.environ["PATH"] = os.pathsep.join((str(ROOT / "tests" / "support" / "no_gpu"), os.environ["PATH"]))
# A shell's background processes ignore Ctrl-C, and programs that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SHARED = ("checkpoints", "devices", "sources")
"""Folders of the cache that all processes of a session share."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the session's cache: in a new folder, or in QUANTBENCH_TEST_CACHE to keep it between sessions.

    Each process of a parallel test run has its own, since tests inspect and kill the servers of their cache. What takes
    long to make is shared by all of them: checkpoints, and the measured limits of this machine.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    base = tmp_path_factory.getbasetemp()
    root = Path(os.environ.get("QUANTBENCH_TEST_CACHE") or (base.parent if worker else base)).resolve() / "cache"
    folder = root / (worker or "alone")
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (root / "shared" / name).mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (folder / name).symlink_to(root / "shared" / name)
    return folder


@pytest.fixture(autouse=True)
def _plain_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tables the width that they have without a terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def cli(cache: Path, tmp_path: Path) -> Cli:
    return Cli(cache, tmp_path)


FIRST = (
    "tests/whole/test_run.py",
    "tests/whole/test_variants.py",
    "tests/whole/test_builds.py",
    "tests/accuracy/test_served_lm.py",
    "tests/whole/test_accuracy_faults.py",
    "tests/whole/test_model.py",
    "tests/whole/test_launchers.py",
)
"""Files that take minutes: started first, so that none is left to one process at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first."""
    places = {file: place for place, file in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(FIRST)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute tests by file."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # otherwise files with many tests would come first
    return LoadFileScheduling(config, log)
