"""Only cells of status ``ok`` have figures to draw, compare and derive from; a type checker refuses all others."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.record import Status
from bench.speed.figures import (
    CellFigures,
    EmulatedCell,
    MeasuredCell,
    UnmeasuredCell,
    figures_of,
    measured_cell,
    per_trial,
    recorded_cell,
)
from bench.speed.metrics import tpot_s
from testkit.records import cell
from tests.support.paths import ROOT

KINDS: dict[Status, type[CellFigures]] = {
    "ok": MeasuredCell,
    "emulated": EmulatedCell,
    "invalid": UnmeasuredCell,
    "not_supported": UnmeasuredCell,
    "failed": UnmeasuredCell,
}
LISTS = {
    "bench/analysis/cost.py",
    "bench/commands/results.py",
    "bench/pipeline/summary.py",
    "bench/report/cells.py",
    "bench/report/rows.py",
    "bench/report/sections/data.py",
    "bench/report/sections/load.py",
    "bench/report/sections/memory.py",
    "bench/report/sections/speed.py",
    "bench/report/sections/summary.py",
    "bench/report/view.py",
    "bench/speed/figures.py",
}
"""What lists figures with their status: tables, raw exports, and what these two are made of."""
CONSUMERS = """
from bench.analysis.knee import load_points
from bench.analysis.speedup import speedup
from bench.analysis.waterfall import timed_cell
from bench.commands.export_mlflow import _speed
from bench.limits.measured import against, columns, exceeds, limit_of
from bench.limits.roofline import Limit
from bench.records.record import RunRecord, SpeedCell
from bench.report.view import Run
from bench.speed.figures import CellFigures, EmulatedCell, MeasuredCell, RecordedCell, UnmeasuredCell, per_trial
from bench.speed.metrics import CellSummary, tpot_s


def consume(record: RunRecord, limit: Limit, cell: {type}, other: MeasuredCell) -> None:
    speedup(cell, other, tpot_s)
    speedup(other, cell, tpot_s)
    per_trial(cell, tpot_s)
    load_points([cell])
    timed_cell(limit, cell)
    limit_of(record, cell)
    against(limit, cell)
    exceeds(limit, cell)
    columns(record, cell)
    _speed(record, cell)
    summary: CellSummary = cell.summary
"""


@pytest.mark.parametrize("status", KINDS)
def test_the_status_decides_what_a_cell_is(status: Status) -> None:
    speed_cell = cell("fp8", 256, status=status)
    figures = figures_of(speed_cell)
    assert type(figures) is KINDS[status]
    assert figures.cell is speed_cell
    assert measured_cell(speed_cell) == (figures if status == "ok" else None)
    assert recorded_cell(speed_cell) == (figures if status in ("ok", "emulated") else None)


@pytest.mark.parametrize("status", sorted(KINDS.keys() - {"ok"}))
def test_no_other_cell_can_be_taken_for_a_measured_one(status: Status) -> None:
    with pytest.raises(ValueError, match=f"a cell that is {status} has no figures of its variant"):
        MeasuredCell(cell("fp8", 256, status=status))


def test_measured_and_emulated_cells_list_the_same_figures() -> None:
    measured = MeasuredCell(cell("bf16", 256, status="ok"))
    emulated = EmulatedCell(measured.cell.model_copy(update={"status": "emulated"}))
    assert measured.summary == measured.recorded == emulated.recorded


def test_a_trial_counts_with_its_median() -> None:
    measured = MeasuredCell(cell("bf16", 256, concurrency=3))
    times = per_trial(measured, tpot_s)
    for trial, time in zip(measured.cell.trials, times, strict=True):
        assert time == sorted(tpot_s(trace) or 0 for trace in trial.requests)[1]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("MeasuredCell", False),
        ("EmulatedCell", True),
        ("UnmeasuredCell", True),
        ("RecordedCell", True),
        ("CellFigures", True),
        ("SpeedCell", True),
    ],
)
def test_mypy_refuses_any_other_cell_to_what_draws_and_compares(
    name: str, refused: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("mypy")
    folder = tmp_path_factory.getbasetemp()
    file = folder / f"{name.lower()}.py"
    file.write_text(CONSUMERS.replace("{type}", name))
    argv = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(folder / "mypy")]
    done = subprocess.run([*argv, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    body = CONSUMERS.splitlines()
    first = next(number for number, line in enumerate(body, 1) if line.startswith("def ")) + 1
    lines = {int(line) for line in re.findall(rf"{re.escape(file.name)}:(\d+): error", done.stdout)}
    assert lines == (set(range(first, len(body) + 1)) if refused else set()), done.stdout + done.stderr


def readers(file: Path) -> bool:
    """Whether a module reads the figures of emulated cells, or those of a cell whatever its status."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "recorded":
            return True
        if isinstance(node, ast.ImportFrom) and node.module in ("bench.speed.figures", "bench.speed.metrics"):
            names = {alias.name for alias in node.names}
            if names & {"summarize", "recorded_cell", "RecordedCell", "EmulatedCell"}:
                return True
    return False


def test_only_tables_and_raw_exports_read_the_figures_of_emulated_cells() -> None:
    found = {file.relative_to(ROOT).as_posix() for file in (ROOT / "bench").rglob("*.py") if readers(file)}
    assert found - {"bench/commands/decide.py"} == LISTS, "bench/commands/decide.py only names the status"
