"""Judge the newest session against the nights before it.

The newest session of the results folder is tonight. Every speed series of it is judged against its history
(:mod:`bench.nightly.rule`), every accuracy task item by item against the last earlier score, all tasks of all runs
together (:mod:`bench.analysis.judgement`).
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.analysis.judgement import Outcome, Pair, is_reused, judge_family
from bench.errors import StoreError, nearest
from bench.files import write_atomic
from bench.history.find import read_record
from bench.history.index import MARKS, Index, RunRow, marks_of
from bench.history.series import EpochMark
from bench.nightly.nights import histories, standings
from bench.nightly.output import Line
from bench.records.record import RunRecord, TaskScore
from quantize.clock import utc_mark
from quantize.key import Frozen


class Tonight(Frozen):
    """What is judged."""

    session: str
    runs: tuple[RunRow, ...]


def accept(results_dir: Path, run_id: str, reason: str) -> None:
    """Begin a new epoch with a run: what it measured is right, and the nights before say nothing any more."""
    mark = EpochMark(run_id=run_id, reason=reason, at=utc_mark())
    marks = [one for one in marks_of(results_dir) if one.run_id != run_id]
    write_atomic(results_dir / MARKS, json.dumps([one.model_dump() for one in (*marks, mark)], indent=1))


def tonight_of(index: Index, session: str | None) -> Tonight:
    """Return the newest session's runs, or the given one's.

    Raises:
        StoreError: there is none.
    """
    rows = index.runs()
    if not rows:
        raise StoreError("no run has ended in this results folder; run python -m bench.run … first")
    chosen = session or rows[0].session
    found = tuple(row for row in rows if row.session == chosen)
    if not found:
        raise StoreError(f"--session {chosen}: no such session{nearest(chosen, {row.session for row in rows})}")
    return Tonight(session=chosen, runs=found)


def speed_lines(index: Index, tonight: Tonight, marks: Sequence[EpochMark], *, newest: bool) -> list[Line]:
    """Return what tonight says in every series that its runs belong to.

    Args:
        index: of the results folder.
        tonight: what is judged.
        marks: where people began new epochs.
        newest: whether tonight is the newest session; otherwise the nights after it are left out of account.
    """
    if newest:
        judged = {name: one.last for name, one in standings(index, tonight.runs, marks).items()}
    else:
        run_ids = {row.run_id for row in tonight.runs}
        judged = {
            name: next(night for night in reversed(nights) if run_ids & set(night.run_ids))
            for name, nights in histories(index, tonight.runs, marks).items()
        }
    return [Line(name=name, kind=one.kind, ratio=one.ratio, reason=str(one.reason)) for name, one in judged.items()]


def _record(results_dir: Path, run_id: str) -> RunRecord:
    return read_record(results_dir / "runs" / run_id / "record.json")


def _earlier(results_dir: Path, rows: Iterable[RunRow], record: RunRecord, task: str) -> TaskScore | None:
    """Return the newest score of a task that an earlier run of the same variant has."""
    variant = (record.variant.model, record.variant.quant, record.engine)
    for row in rows:
        same = (row.model, row.quant, row.engine) == variant
        if same and row.started_at < record.started_at and row.scores:
            for score in _record(results_dir, row.run_id).scores:
                if score.task == task and not score.repeat and score.valid:
                    return score
    return None


def accuracy_lines(results_dir: Path, index: Index, tonight: Tonight) -> list[Line]:
    """Judge every task of tonight's runs item by item against the last earlier score, all of them together."""
    rows = index.runs()
    records = [_record(results_dir, row.run_id) for row in tonight.runs if row.scores]
    pairs = [
        Pair(run=record, score=score, baseline=_earlier(results_dir, rows, record, score.task))
        for record in records
        for score in record.scores
        if not score.repeat
    ]
    return [_accuracy_line(pair, outcome) for pair, outcome in zip(pairs, judge_family(pairs).outcomes, strict=True)]


def _accuracy_line(pair: Pair, outcome: Outcome) -> Line:
    score, before = pair.score, pair.baseline
    name = f"{pair.run.variant.model} {pair.run.variant.quant} {pair.run.engine} {score.task}"
    if not score.valid:
        return Line(name=name, kind="invalid", reason=f"{score.status}: {'; '.join(score.reasons)}")
    if before is None:
        return Line(name=name, kind="not_enough_data", reason="no earlier score of this task")
    if is_reused(before, score):
        return Line(name=name, kind="fine", reason=outcome.obstacle)
    verdict = outcome.verdict
    if verdict is None:
        return Line(name=name, kind="not_enough_data", reason=f"not compared: {outcome.obstacle}")
    kind = "regression" if verdict.kind == "worse" else "fine"
    return Line(name=name, kind=kind, reason=f"{verdict.kind}: {verdict.reason}")


def run_lines(tonight: Tonight) -> list[Line]:
    """Return a line for each of tonight's runs that has failures."""
    return [
        Line(
            name=f"{row.model} {row.quant} {row.engine}",
            kind="invalid",
            reason=f"{row.failures} failures: {row.run_id}",
        )
        for row in tonight.runs
        if row.failures
    ]


def lost_lines(results_dir: Path, tonight: Tonight, unreadable: Mapping[str, str]) -> list[Line]:
    """Return a line for each run that began after tonight's and left nothing to judge."""
    newest = max(row.run_id for row in tonight.runs)
    unended = [file.parent.name for file in results_dir.glob("runs/*/run.json")]
    found = {
        run_id: "it has not ended: cut short, or still going on"
        for run_id in sorted(unended)
        if run_id > newest and not (results_dir / "runs" / run_id / "record.json").exists()
    }
    found |= {run_id: f"it cannot be read: {why}" for run_id, why in unreadable.items() if run_id > newest}
    return [Line(name=run_id, kind="invalid", reason=why) for run_id, why in found.items()]


def judged(results_dir: Path, session: str | None, *, newest: bool, again: bool = False) -> tuple[Tonight, list[Line]]:
    """Judge a session, the newest by default.

    Args:
        results_dir: results folder.
        session: None for the newest.
        newest: whether it is the newest, but for a second measurement.
        again: whether there is a second measurement, a session of its own.

    Raises:
        StoreError: there is no such session, or a record cannot be read.
    """
    index = Index(results_dir)
    try:
        done = index.refresh()
        tonight = tonight_of(index, session)
        lines = [
            *run_lines(tonight),
            *(lost_lines(results_dir, tonight, done.unreadable) if newest else ()),
            *speed_lines(index, tonight, marks_of(results_dir), newest=newest and not again),
            *accuracy_lines(results_dir, index, tonight),
        ]
    finally:
        index.close()
    for run_id, why in done.unreadable.items():
        sys.stderr.write(f"warning: {run_id} cannot be read and is left out: {why}\n")
    return tonight, lines


def measure_again(results_dir: Path, tonight: Tonight, lines: Sequence[Line]) -> bool:
    """Run once more what is an alarm; returns whether there was something to run."""
    alarmed = {line.name for line in lines if line.kind == "rerun"}
    again = [row for row in tonight.runs if any(name.startswith(f"{row.model} {row.quant} ") for name in alarmed)]
    for row in again:
        command = [sys.executable, "-m", "bench.run", *_record(results_dir, row.run_id).command, "accuracy=none"]
        sys.stderr.write(f"measuring again: {shlex.join(command[1:])}\n")
        subprocess.run([*command, f"results_dir={results_dir}"], check=False)
    return bool(again)
