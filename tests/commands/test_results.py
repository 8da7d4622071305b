"""``quantbench results``: what is listed, verified and removed."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.commands.results import main, outdated
from bench.history.index import SET_ASIDE, Index, RunRow
from bench.history.series import EpochMark
from bench.records.store import SUMS, Store
from testkit.records import QUANTS, controlled_record, keep, record, troubled_records


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for quant in QUANTS:
        keep(tmp_path, record(quant))
    return tmp_path


def call(results: Path, *words: str) -> int:
    return main(["--results", str(results), *words])


def test_every_file_of_an_ended_run_has_a_sum_that_coreutils_agrees_with(results: Path) -> None:
    for folder in (results / "runs").iterdir():
        sums = (folder / SUMS).read_text().splitlines()
        files = {str(file.relative_to(folder)) for file in folder.rglob("*.json")}
        assert {line.partition("  ")[2] for line in sums} == files
        assert len(files) > 4
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=folder, check=True)


def test_the_list_names_runs_and_can_be_narrowed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "list") == 0
    text = capsys.readouterr().out
    assert all(record(quant).run_id in text for quant in QUANTS)
    assert call(results, "list", "--quant", "fp8", "--limit", "1") == 0
    text = capsys.readouterr().out
    assert record("fp8").run_id in text
    assert record("bf16").run_id not in text


@pytest.mark.parametrize("name", ["fp8", "smollm2-135m/fp8", record("fp8").run_id, record("fp8").run_id[:-3]])
def test_show_accepts_every_form_of_a_runs_name(results: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "show", name) == 0
    text = capsys.readouterr().out
    assert record("fp8").run_id in text
    assert "python -m bench.run +model=smollm2-135m quant=fp8 experiment=demo" in text
    assert "emulated" in text
    assert "mini-mmlu" in text


def test_show_accepts_a_session_and_a_record_file(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, "show", record().session) == 0
    assert capsys.readouterr().out.count("rerun ") == len(QUANTS)
    file = tmp_path / "elsewhere.json"
    file.write_text(controlled_record().model_dump_json())
    assert call(tmp_path / "nothing", "show", str(file)) == 0
    assert "bf16" in capsys.readouterr().out


def test_show_gives_the_reasons_of_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for failed in troubled_records():
        keep(tmp_path, failed)
    for quant in ("fp8", "awq-int4"):
        assert call(tmp_path, "show", quant) == 0
    text = capsys.readouterr().out
    assert "the server ended with exit code -9" in text
    assert "failed in quantize: AWQ needs 1.2 GB" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "fp9"), "did you mean 'fp8'?"),
        (("show", "20261124T02"), "matches 5 runs"),
        (("prune",), "--unfinished"),
    ],
)
def test_wrong_names_get_one_line(
    results: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_results_folder_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "list") == 2
    assert "--results DIR" in capsys.readouterr().err


def test_rebuild_sets_damaged_runs_aside_and_names_them(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = results / "runs"
    changed, torn, incomplete = (runs / record(quant).run_id for quant in ("fp8", "gptq-int8", "awq-int4"))
    file = next((changed / "cells").glob("*.json"))
    file.write_text(file.read_text().replace("emulated", "ok"))
    (torn / "record.json").write_bytes((torn / "record.json").read_bytes()[:1000])
    next((incomplete / "scores").glob("*.json")).unlink()
    assert call(results, "rebuild") == 1
    output = capsys.readouterr()
    assert "2 finished runs in the index, 3 set aside" in output.out
    assert f"{changed.name}: cells/{file.name} has changed" in output.err
    assert "is missing" in output.err
    assert sorted(folder.name for folder in (results / SET_ASIDE).iterdir()) == sorted(
        folder.name for folder in (changed, torn, incomplete)
    )
    assert call(results, "rebuild") == 0


def test_an_edited_record_is_unreadable(results: Path) -> None:
    file = results / "runs" / record("fp8").run_id / "record.json"
    text = file.read_text()
    file.write_text(text.replace('"emulated"', '"ok"'))
    index = Index(results)
    assert index.refresh().unreadable == {record("fp8").run_id: "record.json has changed since the run ended"}
    index.close()


def test_prune_removes_the_listed_runs_only_with_yes(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = record("fp8", run_id="20261125T020000-newer", started_at="2026-11-25T02:00:00+00:00")
    keep(results, newer)
    assert call(results, "prune", "--keep", "1") == 0
    text = capsys.readouterr().out
    assert text.splitlines() == [record("fp8").run_id, "1 run would be removed; add --yes to remove them"]
    assert call(results, "prune", "--keep", "1", "--yes") == 0
    left = {folder.name for folder in (results / "runs").iterdir()}
    assert left == {newer.run_id} | {record(quant).run_id for quant in QUANTS if quant != "fp8"}
    assert not list(results.glob(".removed*"))


def test_prune_keeps_runs_in_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, record())
    for quant in ("fp8", "awq-int4"):
        folder = Store(tmp_path).create(record(quant).run_id)
        folder.begin(record(quant, finished_at=None))
        if quant == "fp8":
            folder.release()
    assert call(tmp_path, "prune", "--unfinished", "--yes") == 0
    assert capsys.readouterr().out.splitlines()[0] == record("fp8").run_id
    assert not (tmp_path / "runs" / record("fp8").run_id).exists()
    assert folder.path.exists()
    folder.release()


def row(day: int, quant: str = "fp8") -> RunRow:
    return RunRow(
        run_id=f"{quant}-{day}", session="s", model="m", quant=quant, engine="sglang", hostname="h", device=None,
        epoch="e", started_at=f"2026-11-{day:02}T02:00:00+00:00", finished_at=None, failures=0, cells=1, scores=0,
    )  # fmt: skip


def test_prune_keeps_runs_that_began_an_epoch() -> None:
    rows = [row(day) for day in range(9, 0, -1)]
    mark = EpochMark(run_id="fp8-2", reason="new driver", at="2026-11-02")
    assert [run.run_id for run in outdated(rows, [mark], keep=6)] == ["fp8-3", "fp8-1"]
    before = datetime(2026, 11, 3, tzinfo=UTC)
    assert [run.run_id for run in outdated(rows, [], before=before)] == ["fp8-2", "fp8-1"]
    assert [run.run_id for run in outdated(rows, [], before=before, keep=8)] == ["fp8-1"]


def test_rows_are_exported_as_parquet(results: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "all.parquet"
    assert call(results, "export", "--format", "parquet", "--out", str(file)) == 0
    assert call(results, "export", "--format", "json", "--out", str(tmp_path / "all.json")) == 0
    assert parquet.read_table(file).to_pylist() == json.loads((tmp_path / "all.json").read_text())


def test_parquet_needs_a_file(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "export", "--format", "parquet") == 2
    assert "--out FILE" in capsys.readouterr().err


def test_each_run_is_exported_to_mlflow_once(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = (tmp_path / "mlruns").as_uri()
    for number in (len(QUANTS), 0):
        assert call(results, "export", "--format", "mlflow", "--out", address) == 0
        assert capsys.readouterr().out == f"{number} runs in MLflow\n"
    client = mlflow.MlflowClient(address)
    [experiment] = [candidate for candidate in client.search_experiments() if candidate.name == "quantbench"]
    runs = {run.data.params["quant"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(QUANTS)
    metrics = runs["bf16"].data.metrics
    [score] = [score for score in record("bf16").scores if score.task == "mini-mmlu" and not score.repeat]
    assert metrics["mini-mmlu/acc"] == score.metrics[0].value
    assert metrics["in1024-out32-c1/tpot_s"] > 0


def test_rebuild_keeps_a_run_that_is_just_starting(results: Path) -> None:
    folder = Store(results).create("20261126T000000-beginning")
    (results / "runs" / "a file").touch()
    assert call(results, "rebuild") == 0
    assert folder.path.exists()
    folder.release()


def test_prune_removes_the_leftovers_of_a_killed_removal(results: Path) -> None:
    (results / ".removed-old").mkdir()
    assert call(results, "prune", "--keep", "9", "--yes") == 0
    assert not (results / ".removed-old").exists()
