import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.errors import StoreError
from bench.history.find import open_index
from bench.history.index import NAME, Index, SeriesKey, epoch_of, set_aside
from bench.records.record import Control, RunRecord, SpeedCell
from testkit.manifests import manifest
from testkit.records import environment, native_cell, record
from testkit.records import keep as keep_run

KEY = SeriesKey(
    model="smollm2-135m", quant="gptq-int4", engine="transformers", input_len=256, output_len=32, concurrency=1
)


def keep(results: Path, run: RunRecord) -> Path:
    return keep_run(results, run) / "record.json"


def night(day: int, **changes: object) -> RunRecord:
    """Return a run with an interleaved control."""
    cells = tuple(native_cell("gptq-int4", length, interleaved=True) for length in (1, 256))
    control = Control(
        variant=native_cell("bf16", 1).variant,
        checkpoint=manifest("bf16"),
        engine_info={},
        server=None,
        cells=tuple(native_cell("bf16", length, interleaved=True) for length in (1, 256)),
    )
    at = f"2026-11-{day:02}T02:00:00+00:00"
    return record(
        "gptq-int4", run_id=f"run-{day:02}", started_at=at, cells=cells, control=control, scores=(), **changes
    )


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(tmp_path)) as opened:
        yield opened


def test_runs_are_listed_newest_first_and_can_be_filtered(tmp_path: Path, index: Index) -> None:
    for run in (night(3), night(5), record("bf16")):
        keep(tmp_path, run)
    assert index.refresh().read == 3
    assert [row.run_id for row in index.runs()][-1] == "run-03"
    assert [row.run_id for row in index.runs(quant="gptq-int4", limit=1)] == ["run-05"]
    [row] = index.runs(quant="bf16")
    assert (row.cells, row.scores) == (3, len({score.task for score in record("bf16").scores}))


def test_a_refresh_reads_only_new_and_changed_runs(tmp_path: Path, index: Index) -> None:
    file = keep(tmp_path, night(1))
    assert index.refresh().read == 1
    assert index.refresh().read == 0
    keep(tmp_path, night(1, failures=({"stage": "speed", "message": "x"},)))
    assert index.refresh().read == 1
    assert [row.failures for row in index.runs()] == [1]
    file.unlink()
    assert index.refresh().removed == 1
    assert (index.runs(), index.series()) == ([], [])


def rounds(cells: tuple[SpeedCell, ...], number: int = 5) -> tuple[SpeedCell, ...]:
    """Return cells with this number of trials."""
    return tuple(cell.model_copy(update={"trials": (cell.trials * number)[:number]}) for cell in cells)


def night_of_rounds(day: int) -> RunRecord:
    run = night(day)
    assert run.control is not None
    control = run.control.model_copy(update={"cells": rounds(run.control.cells)})
    return run.model_copy(update={"cells": rounds(run.cells), "control": control})


def test_a_history_has_each_nights_ratio_to_its_control(tmp_path: Path, index: Index) -> None:
    for day in (2, 1):
        keep(tmp_path, night_of_rounds(day))
    index.refresh()
    assert KEY in index.series()
    first, second = index.nights(KEY, "decode")
    assert (first.run_id, second.run_id) == ("run-01", "run-02")
    assert first.epoch == second.epoch
    assert first.value == pytest.approx(math.log(1.6), abs=0.01)
    [prefill, _] = index.nights(KEY, "prefill")
    assert prefill.value == pytest.approx(math.log(1.6), abs=0.01)


def test_too_few_rounds_are_reported(tmp_path: Path, index: Index) -> None:
    keep(tmp_path, night(1))
    index.refresh()
    [measurement] = index.nights(KEY, "decode")
    assert measurement.value is None
    assert measurement.problem == "3 rounds, at least 5 are needed (workload.trials=5)"


def test_a_control_that_was_not_interleaved_does_not_count(tmp_path: Path, index: Index) -> None:
    run = night_of_rounds(1)
    assert run.control is not None
    apart = tuple(cell.model_copy(update={"interleaved": False}) for cell in run.control.cells)
    keep(tmp_path, run.model_copy(update={"control": run.control.model_copy(update={"cells": apart})}))
    index.refresh()
    [measurement] = index.nights(KEY, "decode")
    assert "baseline=bf16" in str(measurement.problem)


def test_an_epoch_is_the_machine_the_engine_and_the_packages() -> None:
    run = night(1)
    assert epoch_of(run) == epoch_of(night(9))
    other = environment(gpus=("NVIDIA H20, 97871 MiB, 575.51",))
    assert epoch_of(run) != epoch_of(run.model_copy(update={"environment": other}))
    assert epoch_of(run) != epoch_of(run.model_copy(update={"engine": "vllm"}))
    other = environment(event_loop="asyncio")
    assert epoch_of(run) != epoch_of(run.model_copy(update={"environment": other}))


def test_a_deleted_or_damaged_index_is_rebuilt(tmp_path: Path, index: Index) -> None:
    keep(tmp_path, night(1))
    index.refresh()
    index.close()
    for file in tmp_path.glob(f"{NAME}*"):
        file.unlink()
    (tmp_path / NAME).write_bytes(b"this is no database" * 100)
    with closing(Index(tmp_path)) as rebuilt:
        assert rebuilt.refresh().read == 1
        assert rebuilt.rebuild().read == 1
        assert len(rebuilt.runs()) == 1


def test_tables_of_another_version_are_rebuilt(tmp_path: Path, index: Index) -> None:
    keep(tmp_path, night(1))
    index.refresh()
    index.close()
    with closing(sqlite3.connect(tmp_path / NAME)) as database:
        database.execute("drop table cells")
        database.execute("pragma user_version=0")
    with closing(Index(tmp_path)) as rebuilt:
        assert rebuilt.refresh().read == 1
        assert len(rebuilt.nights(KEY, "decode")) == 1


def test_a_record_that_cannot_be_read_is_named_and_set_aside(tmp_path: Path, index: Index) -> None:
    keep(tmp_path, night(1))
    truncated = keep(tmp_path, night(2))
    truncated.write_bytes(truncated.read_bytes()[:999])
    refreshed = index.refresh()
    assert (refreshed.read, list(refreshed.unreadable)) == (1, ["run-02"])
    assert set_aside(tmp_path, "run-02") == tmp_path / "set-aside" / "run-02"
    assert index.refresh().unreadable == {}


def test_two_processes_can_use_an_index_at_once(tmp_path: Path, index: Index) -> None:
    with closing(Index(tmp_path)) as other:
        keep(tmp_path, night(1))
        assert index.refresh().read == 1
        keep(tmp_path, night(2))
        assert other.refresh().read == 1
        assert [len(each.runs()) for each in (index, other)] == [2, 2]


def test_an_index_damaged_in_its_middle_is_reported_in_one_line(tmp_path: Path, index: Index) -> None:
    for day in range(1, 20):
        keep(tmp_path, night(day))
    index.refresh()
    index.close()
    file = tmp_path / NAME
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    for leftover in tmp_path.glob(f"{NAME}-*"):
        leftover.unlink()
    with pytest.raises(StoreError, match="can be deleted without losing anything"):
        open_index(tmp_path)
