import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.errors import StoreError
from bench.files import write_atomic
from bench.machine.child import Child, end_orphans
from bench.records.record import SCHEMA_VERSION, RunRecord
from bench.records.store import RunFolder, Store
from tests.support.paths import FIXTURES


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    script = (
        "import sys\nfrom pathlib import Path\nfrom bench.records.store import write_atomic\n"
        "n = 0\nwhile True:\n    n += 1\n    write_atomic(Path(sys.argv[1]), f'{n % 10}' * 200_000)\n"
    )
    for round_ in range(10):
        child = subprocess.Popen([sys.executable, "-c", script, str(file)])
        while not file.exists():
            time.sleep(0.01)
        time.sleep(0.02 + 0.011 * round_)
        child.kill()
        child.wait()
        text = file.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1
        file.unlink()


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="results_dir="):
        Store(tmp_path / "results").create("run")


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "x.json"
    write_atomic(file, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="cannot write"):
            write_atomic(file, "n" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_run_folder_has_one_owner(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    with pytest.raises(StoreError, match="still going on"):
        RunFolder(tmp_path / "run")
    first.release()
    RunFolder(tmp_path / "run").release()


def test_a_child_and_its_children_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    script = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    log = tmp_path / "log"
    with Child([sys.executable, "-c", script], what="test", log_file=log, env={}, cwd=tmp_path) as child:
        while not log.read_text().strip():
            time.sleep(0.02)
        grandchild = psutil.Process(int(log.read_text()))
        assert child.memory_bytes() > 0
    assert child.exit_code is not None
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    assert not list((tmp_path / "processes").iterdir())


def test_what_a_killed_run_leaves_is_ended_by_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    script = (
        "import time\nfrom pathlib import Path\nfrom bench.machine.child import Child\n"
        "c = Child(['sleep', '600'], what='a server', log_file=Path('log'), env={}, cwd=Path.cwd())\n"
        "print(c._popen.pid, flush=True)\ntime.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(run.stdout.readline()))
    assert end_orphans() == []
    assert server.is_running()
    run.kill()
    run.wait()
    run.stdout.close()
    assert server.is_running()
    assert len(end_orphans()) == 1
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert end_orphans() == []


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_record_of_an_older_schema_is_read_with_what_it_knows(version: int) -> None:
    file = FIXTURES / "records" / f"v{version}.json"
    before = json.loads(file.read_bytes())
    record = RunRecord.model_validate_json(file.read_bytes())
    assert (before["schema_version"], record.schema_version) == (version, SCHEMA_VERSION)
    assert record.cells[0].status == before["cells"][0]["status"]
    assert record.cells[0].n_requests == record.cells[0].concurrency
    assert record.checkpoint.fidelity.kl_nats == before["checkpoint"]["fidelity"]["kl"]
    assert len(record.checkpoint.layer_errors) == len(before["checkpoint"].get("layer_errors", ()))
    calibration = before["checkpoint"]["calibration"]
    assert (record.checkpoint.calibration and record.checkpoint.calibration.n_tokens) == (
        calibration and calibration["n_tokens"]
    )
    assert record.checkpoint.build_s == before["checkpoint"]["seconds"]
    assert record.stage_durations_s == before["stage_seconds"]
    assert [score.duration_s for score in record.scores] == [score["seconds"] for score in before["scores"]]
    assert record.dollars_per_hour == before.get("price_per_hour")
    assert RunRecord.model_validate_json(record.model_dump_json()) == record
    with pytest.raises(ValueError, match="schema_version"):
        RunRecord.model_validate({**before, "schema_version": 99})


def test_a_record_of_schema_5_keeps_what_it_was_asked_to_do() -> None:
    file = FIXTURES / "records" / "v5.json"
    asked = json.loads(file.read_bytes())["spec"]
    spec = RunRecord.model_validate_json(file.read_bytes()).spec
    assert spec.accuracy.margin == asked["accuracy"]["margin"]
    assert spec.accuracy.settings["max_share"] == asked["accuracy"]["max_share"]
    assert spec.engine.config == asked["engine"]["config"]
    assert spec.engine.dtype == "auto"
    assert spec.quant.method == asked["quant"]["module"] == "rtn"
    assert spec.baseline is not None
    assert spec.baseline.name == "bf16"
    assert spec.model.architecture is not None
    assert spec.model.architecture.model_dump() == asked["model"]["architecture"]
    assert spec.workload == asked["workload"]


def test_figures_of_older_schemas_get_units_in_their_names() -> None:
    """Energy, temperature, power, price and request rate, which the recorded runs on a CPU do not have."""
    before = json.loads((FIXTURES / "records" / "v5.json").read_bytes())
    state = {"index": 0, "sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 61, "power_w": 500.0}
    state |= {"memory_used_bytes": 1 << 30, "throttled": []}
    trial = before["cells"][0]["trials"][0]
    trial |= {"energy": {"joules": 7.25, "how": "counter", "valid": True}, "devices_after": [state]}
    before["cells"][0]["request_rate"] = 2.5
    before["price_per_hour"] = 3.6
    record = RunRecord.model_validate(before)
    cell = record.cells[0]
    assert cell.request_rate_per_s == 2.5
    assert cell.trials[0].energy is not None
    assert cell.trials[0].energy.total_j == 7.25
    assert cell.trials[0].devices_after[0].temperature_celsius == 61
    assert record.dollars_per_hour == 3.6
    assert record.scores[0].work is not None
    assert record.scores[0].work.duration_s == before["scores"][0]["work"]["seconds"]
    assert record.control is not None
    assert record.control.checkpoint.build_s == before["control"]["checkpoint"]["seconds"]


def test_an_interrupted_run_of_schema_5_is_read_with_its_cells_and_scores(tmp_path: Path) -> None:
    """Its cells and scores are files of their own, which carry no schema version."""
    before = json.loads((FIXTURES / "records" / "v5.json").read_bytes())
    folder = tmp_path / "runs" / before["run_id"]
    kept = {"cells/1.json": before["cells"][0], "control/1.json": before["control"]["cells"][0]}
    kept["scores/1.json"] = before["scores"][0]
    begun = {**before, "cells": [], "scores": [], "finished_at": None}
    for name, content in {"run.json": begun, **kept}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (record,) = Store(tmp_path).records()
    assert record.cells == RunRecord.model_validate(before).cells[:1]
    assert record.scores == RunRecord.model_validate(before).scores[:1]
    assert record.control is not None
    assert len(record.control.cells) == 1


@pytest.mark.parametrize(
    "path", ["accuracy.margin", "model.title", "engine.config", "quant.module", "seed", "baseline"]
)
def test_a_field_that_schema_5_always_had_is_never_made_up(path: str) -> None:
    """A default at the reader would judge by a margin that nobody declared."""
    record = json.loads((FIXTURES / "records" / "v5.json").read_bytes())
    *nodes, name = path.split(".")
    node = record["spec"]
    for step in nodes:
        node = node[step]
    del node[name]
    with pytest.raises(ValueError, match=rf"spec\.{path.replace('.', '[.]')} is missing from a record of schema 5"):
        RunRecord.model_validate(record)


def test_a_journal_begins_with_the_most_that_an_earlier_run_has(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lines = b'["a", {}]\n["b", {}]\n'
    for run, content in (("1", lines), ("2", lines[:10]), ("3", b"")):
        file = tmp_path / "runs" / run / "answers" / "task-key.jsonl"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    folder = store.create("4")
    assert store.journal(folder, "task-key").read_bytes() == lines
    other = store.journal(folder, "task-other")
    assert other == tmp_path / "runs" / "4" / "answers" / "task-other.jsonl"
    assert not other.exists()
    own = store.create("2")
    assert store.journal(own, "task-key").read_bytes() == lines[:10], "a resumed run keeps its own"
    for run_folder in (folder, own):
        run_folder.release()


def test_a_journal_is_copied_byte_for_byte(tmp_path: Path) -> None:
    # Rubbish must stay rubbish: mended, a line might count as an answer.
    content = b'["a", {"text": "caf\xff"}]\r\n["b", {"text": "caf\xc3'
    file = tmp_path / "runs" / "1" / "answers" / "task-key.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    folder = Store(tmp_path).create("2")
    assert Store(tmp_path).journal(folder, "task-key").read_bytes() == content
    folder.release()
