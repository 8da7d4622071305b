"""The gate as CI calls it: exit codes, files and output."""

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
    output = capsys.readouterr().out
    assert "fine: 2 fine" in output
    assert "gptq-int4 transformers in256 out32 c1 decode" in output
    assert json.loads((month / HISTORY).read_text().splitlines()[-1])["exit_code"] == 0


def test_a_slow_down_of_five_percent_is_a_regression_until_it_is_accepted(
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
    ("arguments", "message"),
    [
        (["--results", "/no/such"], "set the results folder with --results DIR"),
        (["--accept", "nobody", "--reason", "x"], "needs the name of a finished run"),
        (["--session", "session-024-22"], "did you mean 'session-02"),
    ],
)
def test_wrong_arguments_of_the_gate_are_reported_in_one_line(
    month: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*arguments, *(() if "--results" in arguments else ("--results", str(month)))]) == 3
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_empty_folder_has_nothing_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert judged(tmp_path) == 3
    assert "no finished run" in capsys.readouterr().err


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
    """Twelve nights after a 5 % slow-down that was accepted: the gate passes, and Otava names the night."""
    if state(read("otava")).python is None:
        pytest.skip("toolchain otava is not built: quantbench toolchain build otava")
    results = tmp_path / "results"
    shutil.copytree(month, results)
    for day in range(25, 37):
        keep(results, night(day, 0.05))
    accept(results, "run-025-23", "a new kernel, slower and right")
    assert judged(results, "--change-points") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("change point")]
    assert any("decode, night of 2026-01-26: -4." in line or "night of 2026-01-26: -5." in line for line in lines), (
        lines
    )


def test_change_points_without_the_toolchain_name_the_command_to_build_it(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    assert judged(month, "--change-points") == 3
    assert "quantbench toolchain build otava" in capsys.readouterr().err


def test_measuring_one_run_again_keeps_the_nights_other_lines(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two variants one alarms and one has a failure: the second measurement of the first hides nothing."""
    results = tmp_path / "results"
    shutil.copytree(month, results)
    slow = night(25, 0.06)
    other = record("fp8", run_id="run-025-a", session=slow.session, started_at=slow.started_at, cells=(), scores=(),
                   failures=(Failure(stage="speed", message="out of memory"),))  # fmt: skip
    for run in (slow, other):
        keep(results, run)
    commands = []

    def rerun(command: list[str], *, check: bool) -> None:
        commands.append(command)
        update = {"run_id": "run-025-z", "session": "again", "started_at": slow.started_at.replace("23:00", "23:40")}
        keep(results, night(25, 0.06, hour=22).model_copy(update=update))

    monkeypatch.setattr("bench.nightly.gate.subprocess.run", rerun)
    assert judged(results, "--rerun") == 1
    output = capsys.readouterr().out
    assert "measured twice" in output
    assert "1 failure: run-025-a" in output
    [command] = commands
    assert command[2:] == ["bench.run", *slow.command, "accuracy=none", f"results_dir={results}"]


def test_an_alarm_is_kept_if_the_second_measurement_falls_into_the_next_night(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(month, results)
    keep(results, night(25, 0.06))

    def rerun(command: list[str], *, check: bool) -> None:
        keep(results, night(26, 0.06).model_copy(update={"session": "again"}))

    monkeypatch.setattr("bench.nightly.gate.subprocess.run", rerun)
    assert judged(results, "--rerun") == 1
    assert "a second measurement must agree" in capsys.readouterr().out


def test_a_second_measurement_does_not_hide_an_unfinished_run(
    month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    shutil.copytree(month, results)
    slow = night(25, 0.06)
    keep(results, slow)
    folder = Store(results).create("run-025-99")
    folder.begin(night(25))
    folder.release()

    def rerun(command: list[str], *, check: bool) -> None:
        update = {"run_id": "run-026", "session": "again", "started_at": slow.started_at.replace("23:00", "23:40")}
        keep(results, night(25, -0.06).model_copy(update=update))  # the mean of both is fine

    monkeypatch.setattr("bench.nightly.gate.subprocess.run", rerun)
    assert judged(results, "--rerun") == 3


def test_an_unfinished_run_makes_the_night_invalid(month: Path, tmp_path: Path) -> None:
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
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    assert code == 3


def test_a_summary_that_cannot_be_written_is_no_regression(
    month: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert judged(month, "--summary", str(tmp_path / "file" / "summary.md")) == 3
    assert "cannot write" in capsys.readouterr().err
