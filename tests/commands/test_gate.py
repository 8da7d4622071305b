"""The gate as CI calls it: exit codes, files, and what it says."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.commands.gate import HISTORY, main
from bench.nightly.gate import accept
from bench.nightly.output import KIND_CODE, Line, exit_code, junit, markdown
from bench.records.record import Failure, RunRecord
from bench.records.store import Store
from bench.toolchains.toolchain import read, state
from testkit.records import keep, record
from tests.support.nights import night

HOSTILE = "<img onerror=1>|\n</script>"


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("nights")
    for day in range(25):
        keep(results, night(day))
    return results


def judged(results: Path, *more: str) -> int:
    return main(["--results", str(results), *more])


def test_twenty_five_quiet_nights_are_fine(month: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judged(month) == 0
    said = capsys.readouterr().out
    assert "fine: 2 fine" in said
    assert "gptq-int4 transformers in256 out32 c1 decode" in said
    assert json.loads((month / HISTORY).read_text().splitlines()[-1])["exit_code"] == 0


def test_a_slow_down_of_five_percent_is_a_regression_until_somebody_accepts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(25):
        keep(tmp_path, night(day))
    keep(tmp_path, night(25, 0.05, hour=22))
    assert judged(tmp_path) == 1
    assert "a second measurement must agree" in capsys.readouterr().out
    keep(tmp_path, night(25, 0.05))
    xml, page = tmp_path / "gate.xml", tmp_path / "summary.md"
    assert judged(tmp_path, "--junit", str(xml), "--summary", str(page)) == 1
    assert "measured twice" in capsys.readouterr().out
    suite = ET.parse(xml).getroot()
    assert (suite.get("failures"), suite.get("tests")) == ("2", "2")
    assert "a regression" in page.read_text()
    assert judged(tmp_path, "--accept", "run-025-22", "--reason", "a safer kernel") == 0
    assert judged(tmp_path) == 2, "a new epoch has too few nights"


def test_the_first_nights_are_too_few(tmp_path: Path) -> None:
    keep(tmp_path, night(0))
    assert judged(tmp_path) == 2


def test_a_run_with_failures_or_an_invalid_cell_is_invalid(tmp_path: Path) -> None:
    for day in range(10):
        keep(tmp_path, night(day))
    broken = night(10)
    cells = tuple(cell.model_copy(update={"status": "invalid", "reasons": ("x",)}) for cell in broken.cells)
    failure = {"stage": "serve", "message": "it died"}
    keep(tmp_path, RunRecord.model_validate({**broken.model_dump(), "cells": cells, "failures": (failure,)}))
    assert judged(tmp_path) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--results", "/no/such"], "name the results folder with --results DIR"),
        (["--accept", "nobody", "--reason", "x"], "needs the name of a run that has ended"),
        (["--session", "session-024-22"], "did you mean 'session-02"),
    ],
)
def test_wrong_calls_get_one_line(
    month: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([*arguments, *(() if "--results" in arguments else ("--results", str(month)))]) == 3
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_an_empty_folder_has_nothing_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert judged(tmp_path) == 3
    assert "no run has ended" in capsys.readouterr().err


def test_a_mark_is_kept_once_for_each_run(tmp_path: Path) -> None:
    accept(tmp_path, "a", "first")
    accept(tmp_path, "a", "second")
    assert [mark["reason"] for mark in json.loads((tmp_path / "epochs.json").read_text())] == ["second"]


@given(st.lists(st.sampled_from(sorted(KIND_CODE)), max_size=6))
def test_a_regression_comes_before_an_invalid_run_and_that_before_too_little_data(kinds: list[str]) -> None:
    code = exit_code([Line(name="x", kind=kind, reason="") for kind in kinds])
    codes = {KIND_CODE[kind] for kind in kinds}
    assert code == (1 if 1 in codes else 3 if 3 in codes else 2 if 2 in codes or not codes else 0)


def test_hostile_names_stay_text() -> None:
    lines = [Line(name=HOSTILE, kind="regression", reason=HOSTILE, ratio=1.0)]
    case = ET.fromstring(junit(HOSTILE, lines))[0]
    assert case.get("name", "").startswith("<img onerror=1>|")
    page = markdown("x", lines)
    assert "<img" not in page
    assert len([row for row in page.splitlines() if row.startswith("| ")]) == 2


def test_change_points_come_from_otava_where_its_toolchain_is_built(
    month: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve nights after a 5 % slow-down that somebody accepted: the gate is content, Otava names the night."""
    if state(read("otava")).python is None:
        pytest.skip("toolchain otava is not built: quantbench toolchain build otava")
    results = tmp_path / "results"
    shutil.copytree(month, results)
    for day in range(25, 37):
        keep(results, night(day, 0.05))
    accept(results, "run-025-23", "a new kernel, slower and right")
    assert judged(results, "--change-points") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("change point")]
    assert any("decode, night of 2026-01-26: -4." in line or "night of 2026-01-26: -5." in line for line in told), told


def test_without_the_toolchain_change_points_say_what_to_build(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    assert judged(month, "--change-points") == 3
    assert "quantbench toolchain build otava" in capsys.readouterr().err


def test_what_is_measured_again_leaves_everything_else_of_the_night_judged(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two variants, one an alarm and one with a failure: the second measurement of the first hides nothing."""
    results = tmp_path / "results"
    shutil.copytree(month, results)
    slow = night(25, 0.06)
    other = record("fp8", run_id="run-025-a", session=slow.session, started_at=slow.started_at, cells=(), scores=(),
                   failures=(Failure(stage="speed", message="out of memory"),))  # fmt: skip
    for one in (slow, other):
        keep(results, one)
    asked = []

    def again(command: list[str], *, check: bool) -> None:
        asked.append(command)
        later = {"run_id": "run-025-z", "session": "again", "started_at": slow.started_at.replace("23:00", "23:40")}
        keep(results, night(25, 0.06, hour=22).model_copy(update=later))

    monkeypatch.setattr("bench.nightly.gate.subprocess.run", again)
    assert judged(results, "--rerun") == 1
    said = capsys.readouterr().out
    assert "measured twice" in said
    assert "1 failures: run-025-a" in said
    [command] = asked
    assert command[2:] == ["bench.run", *slow.command, "accuracy=none", f"results_dir={results}"]


def test_an_alarm_stands_where_the_second_measurement_falls_into_the_next_night(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(month, results)
    keep(results, night(25, 0.06))

    def again(command: list[str], *, check: bool) -> None:
        keep(results, night(26, 0.06).model_copy(update={"session": "again"}))

    monkeypatch.setattr("bench.nightly.gate.subprocess.run", again)
    assert judged(results, "--rerun") == 1
    assert "a second measurement must agree" in capsys.readouterr().out


def test_a_second_measurement_does_not_hide_a_run_that_did_not_end(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(month, results)
    slow = night(25, 0.06)
    keep(results, slow)
    folder = Store(results).create("run-025-99")
    folder.begin(night(25))
    folder.release()

    def again(command: list[str], *, check: bool) -> None:
        later = {"run_id": "run-026", "session": "again", "started_at": slow.started_at.replace("23:00", "23:40")}
        keep(results, night(25, -0.06).model_copy(update=later))  # the mean of both is fine

    monkeypatch.setattr("bench.nightly.gate.subprocess.run", again)
    assert judged(results, "--rerun") == 3


def test_a_run_that_did_not_end_is_no_quiet_night(month: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(month, results)
    folder = Store(results).create("run-025-23")
    folder.begin(night(25))
    folder.release()
    assert judged(results) == 3
    folder.path.rename(results / "elsewhere")
    keep(results, night(25))
    (results / "runs" / "run-025-23" / "record.json").write_text("{")
    assert judged(results) == 3


@pytest.mark.parametrize("words", [("--junitt", "x"), ("--session", "nothing")])
def test_a_wrong_command_does_not_look_like_too_little_data(month: Path, words: tuple[str, ...]) -> None:
    try:
        code = judged(month, *words)
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    assert code == 3


def test_a_summary_that_cannot_be_written_is_no_regression(
    month: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert judged(month, "--summary", str(tmp_path / "file" / "summary.md")) == 3
    assert "cannot write" in capsys.readouterr().err
