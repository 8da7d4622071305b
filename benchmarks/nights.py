"""The gate on nights made of real trials: 25 of them, the last as measured or 5 % slower.

One real run serves the demo model twice, side by side, and lets their trials take turns; each night is made of rounds
drawn from it. On two cores that share a machine with others a round of a second is off by several percent, so a night
has many of them. Nights of one session share its hour of weather, which real nights do not.
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
"""Rounds that are measured."""
SLOWER = 0.05
SERIES = 400
"""Drawn to see how often the gate is right; one series alone is luck."""
RUN = (
    "+model=smollm2-135m", "quant=bf16", "baseline=bf16", "accuracy=none", "workload=demo",
    "workload.input_lens=[64]", "workload.output_len=32", f"workload.trials={REAL}",
)  # fmt: skip


def nights(record: RunRecord, slower: float) -> list[RunRecord]:
    """Return a record for each night, the last one slower, and one of a second measurement of that last night."""
    assert record.control is not None
    found, rng = [], np.random.default_rng(0)
    for night in range(NIGHTS + 1):
        drawn = rng.integers(REAL, size=ROUNDS).tolist()
        factor = 1 + slower if night >= NIGHTS - 1 else 1.0
        own, beside = (
            tuple(cell.model_copy(update={"trials": tuple(cell.trials[at] for at in drawn)}) for cell in cells)
            for cells in (record.cells, record.control.cells)
        )
        at = f"2026-10-{min(night + 1, NIGHTS):02}T23:{30 if night == NIGHTS else 0:02}:00+00:00"
        changes = {
            "run_id": f"night-{night:02}", "session": f"night-{night:02}", "started_at": at, "finished_at": at,
            "cells": tuple(paced(cell, factor) for cell in own),
            "control": record.control.model_copy(update={"cells": beside}),
        }  # fmt: skip
        found.append(record.model_copy(update=changes))
    return found


def judge(folder: Path, records: list[RunRecord]) -> tuple[int, str]:
    """Store the nights, measure the last one again if the gate wants it, and return its exit code and what it says."""
    store = Store(folder)
    code, told = 2, ""
    for place, record in enumerate(records):
        if place == NIGHTS and "rerun" not in told:
            break
        kept = store.create(record.run_id)
        kept.begin(record)
        kept.finish(record)
        kept.release()
        if place >= NIGHTS - 1:
            said = StringIO()
            with redirect_stdout(said):
                code = gate.main(["--results", str(folder)])
            told = said.getvalue()
    return code, told


def alarmed(record: RunRecord, slower: float) -> float:
    """Return the share of drawn series whose last night is called a regression."""
    assert record.control is not None
    own, beside = (
        np.array(per_trial(MeasuredCell(cells[0]), tpot_s)) for cells in (record.cells, record.control.cells)
    )
    rng, found = np.random.default_rng(1), 0
    for _ in range(SERIES):
        values = []
        for night in range(NIGHTS + 1):
            drawn = rng.integers(REAL, size=ROUNDS)
            factor = 1 + slower if night >= NIGHTS - 1 else 1.0
            values.append(value_of((own[drawn] * factor).tolist(), beside[drawn].tolist()))
        track = Track(Rule())
        for value in values[: NIGHTS - 1]:
            if judge_night(track, float(value)).kind not in ALARMS:
                track.accept(float(value))
        last = judge_night(track, float(values[-2]))
        if last.kind == "rerun":
            last = judge_night(track, float(values[-2]), float(values[-1]))
        found += last.kind == "regression"
    return found / SERIES


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
            code, said = judge(Path(name) / what.replace(" ", "-"), nights(record, slower))
            told = next(line for line in said.splitlines() if " decode " in line)
            lines.append(
                f"| {what} | {code}, {EXIT[code]} | {' '.join(told.split())} | {alarmed(record, slower):.1%} |"
            )
    head = f"{NIGHTS} nights of {ROUNDS} rounds each, drawn from {REAL} real ones: `{' '.join(RUN)}`"
    return "\n".join([head, "", *lines])
