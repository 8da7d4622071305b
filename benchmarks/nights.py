"""The gate on 25 nights resampled from real trials, the last one as measured or 5 % slower.

One real run serves the demo model twice, with interleaved trials; each night consists of rounds sampled from it. On two
cores of a shared machine a round of a second varies by several percent, so a night has many rounds. The nights share
the conditions of a single session, which real nights do not.
"""

import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from bench.history.series import value_of
from bench.nightly import gate
from bench.nightly.course import ALARMS
from bench.nightly.output import EXIT
from bench.nightly.rule import Rule, Track
from bench.nightly.rule import judge as judge_night
from bench.records.record import RunRecord
from bench.records.store import Store
from bench.speed.figures import MeasuredCell, per_trial
from bench.speed.metrics import tpot_s
from testkit.records import paced

NIGHTS, ROUNDS = 25, 100
REAL = 60
"""Number of measured rounds."""
SLOWER = 0.05
SERIES = 400
"""Number of sampled series, which show how often the gate is correct; a single series is chance."""
RUN = (
    "+model=smollm2-135m", "quant=bf16", "baseline=bf16", "accuracy=none", "workload=demo",
    "workload.input_lens=[64]", "workload.output_len=32", f"workload.trials={REAL}",
)  # fmt: skip


def nights(record: RunRecord, slower: float) -> list[RunRecord]:
    """Return a record per night, the last one slower, and one for a second measurement of the last night."""
    assert record.control is not None
    records, rng = [], np.random.default_rng(0)
    for night in range(NIGHTS + 1):
        rounds = rng.integers(REAL, size=ROUNDS).tolist()
        factor = 1 + slower if night >= NIGHTS - 1 else 1.0
        own, control = (
            tuple(cell.model_copy(update={"trials": tuple(cell.trials[at] for at in rounds)}) for cell in cells)
            for cells in (record.cells, record.control.cells)
        )
        at = f"2026-10-{min(night + 1, NIGHTS):02}T23:{30 if night == NIGHTS else 0:02}:00+00:00"
        changes = {
            "run_id": f"night-{night:02}", "session": f"night-{night:02}", "started_at": at, "finished_at": at,
            "cells": tuple(paced(cell, factor) for cell in own),
            "control": record.control.model_copy(update={"cells": control}),
        }  # fmt: skip
        records.append(record.model_copy(update=changes))
    return records


def judge(folder: Path, records: list[RunRecord]) -> tuple[int, str]:
    """Store the nights, with a second measurement of the last if the gate asks for it; return exit code and output."""
    store = Store(folder)
    code, output = 2, ""
    for place, record in enumerate(records):
        if place == NIGHTS and "rerun" not in output:
            break
        run = store.create(record.run_id)
        run.begin(record)
        run.finish(record)
        run.release()
        if place >= NIGHTS - 1:
            stdout = StringIO()
            with redirect_stdout(stdout):
                code = gate.main(["--results", str(folder)])
            output = stdout.getvalue()
    return code, output


def alarmed(record: RunRecord, slower: float) -> float:
    """Return the share of sampled series whose last night is reported as a regression."""
    assert record.control is not None
    own, control = (
        np.array(per_trial(MeasuredCell(cells[0]), tpot_s)) for cells in (record.cells, record.control.cells)
    )
    rng, regressions = np.random.default_rng(1), 0
    for _ in range(SERIES):
        values = []
        for night in range(NIGHTS + 1):
            rounds = rng.integers(REAL, size=ROUNDS)
            factor = 1 + slower if night >= NIGHTS - 1 else 1.0
            values.append(value_of((own[rounds] * factor).tolist(), control[rounds].tolist()))
        track = Track(Rule())
        for value in values[: NIGHTS - 1]:
            if judge_night(track, float(value)).kind not in ALARMS:
                track.accept(float(value))
        last = judge_night(track, float(values[-2]))
        if last.kind == "rerun":
            last = judge_night(track, float(values[-2]), float(values[-1]))
        regressions += last.kind == "regression"
    return regressions / SERIES


def measure(folder: Path) -> RunRecord:
    """Return the real run."""
    command = [sys.executable, "-m", "bench.run", *RUN, f"results_dir={folder}", f"reports_dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    [file] = folder.glob("runs/*/record.json")
    return RunRecord.model_validate_json(file.read_bytes())


def run() -> str:
    """Run and return the table."""
    lines = [
        "| the last night | gate's exit code | it says | a regression in, of 400 such series |",
        "|---|---|---|---:|",
    ]
    with tempfile.TemporaryDirectory() as name:
        record = measure(Path(name) / "real")
        for what, slower in (("as measured", 0.0), (f"{SLOWER:.0%} slower", SLOWER)):
            code, output = judge(Path(name) / what.replace(" ", "-"), nights(record, slower))
            verdict = next(line for line in output.splitlines() if " decode " in line)
            lines.append(
                f"| {what} | {code}, {EXIT[code]} | {' '.join(verdict.split())} | {alarmed(record, slower):.1%} |"
            )
    head = f"{NIGHTS} nights of {ROUNDS} rounds each, drawn from {REAL} real ones: `{' '.join(RUN)}`"
    return "\n".join([head, "", *lines])
