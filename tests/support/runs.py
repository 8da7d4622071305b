"""Records and servers of runs of the whole program."""

import json
import time
from pathlib import Path

from bench.records.record import RunRecord


def records(folder: Path) -> list[RunRecord]:
    files = sorted(folder.glob("results/runs/*/record.json"))
    return [RunRecord.model_validate_json(file.read_bytes()) for file in files]


def checkpoint_of(cache: Path, record: RunRecord) -> Path:
    """Return the folder of the checkpoint that a run measured."""
    assert record.checkpoint is not None
    (folder,) = (cache / "checkpoints").glob(f"*-{record.checkpoint.key.digest[:12]}")
    return folder


def server_pids(cache: Path) -> list[int]:
    return [json.loads(file.read_text())["pid"] for file in (cache / "processes").glob("*.json")]


def wait_until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
