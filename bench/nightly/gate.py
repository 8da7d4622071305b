"""Judge the newest session of a results folder, "tonight", against the nights before it.

Every speed series is judged against its history (:mod:`bench.nightly.rule`). Every accuracy task is compared item by
item with the last earlier score, as one family over all tasks and runs (:mod:`bench.analysis.judgement`).
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench import format as fmt
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
    """The session to judge."""

    session: str
    runs: tuple[RunRow, ...]


def accept(results_dir: Path, run_id: str, reason: str) -> None:
    """Start a new epoch with a run: its level is accepted, and the nights before it no longer count."""
    accepted = EpochMark(run_id=run_id, reason=reason, at=utc_mark())
    marks = [mark for mark in marks_of(results_dir) if mark.run_id != run_id]
    write_atomic(results_dir / MARKS, json.dumps([mark.model_dump() for mark in (*marks, accepted)], indent=1))


def tonight_of(index: Index, session: str | None) -> Tonight:
    """Return the given session, or the newest one.

    Raises:
        StoreError: there is none.
    """
    rows = index.runs()
    if not rows:
        raise StoreError("this results folder has no finished run; run python -m bench.run … first")
    name = session or rows[0].session
    runs = tuple(row for row in rows if row.session == name)
    if not runs:
        raise StoreError(f"--session {name}: no such session{nearest(name, {row.session for row in rows})}")
    return Tonight(session=name, runs=runs)


def speed_lines(index: Index, tonight: Tonight, marks: Sequence[EpochMark], *, newest: bool) -> list[Line]:
    """Return a line for every speed series of tonight's runs.

    Args:
        index: index of the results folder.
        tonight: the session to judge.
        marks: manually accepted epochs.
        newest: whether tonight is the newest session; otherwise the nights after it are ignored.
    """
    if newest:
        nights_of = {name: standing.last for name, standing in standings(index, tonight.runs, marks).items()}
    else:
        run_ids = {row.run_id for row in tonight.runs}
        nights_of = {
            name: next(night for night in reversed(nights) if run_ids & set(night.run_ids))
            for name, nights in histories(index, tonight.runs, marks).items()
        }
    return [
        Line(name=name, kind=night.kind, ratio=night.ratio, reason=str(night.reason))
        for name, night in nights_of.items()
    ]


def _record(results_dir: Path, run_id: str) -> RunRecord:
    return read_record(results_dir / "runs" / run_id / "record.json")


def _earlier(results_dir: Path, rows: Iterable[RunRow], record: RunRecord, task: str) -> TaskScore | None:
    """Return the newest score of a task from an earlier run of the same variant, or None."""
    variant = (record.variant.model, record.variant.quant, record.engine)
    for row in rows:
        same_variant = (row.model, row.quant, row.engine) == variant
        if same_variant and row.started_at < record.started_at and row.scores:
            for score in _record(results_dir, row.run_id).scores:
                if score.task == task and not score.repeat and score.valid:
                    return score
    return None


def accuracy_lines(results_dir: Path, index: Index, tonight: Tonight) -> list[Line]:
    """Compare every task of tonight's runs item by item with the last earlier score, as one family."""
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
    score, earlier = pair.score, pair.baseline
    name = f"{pair.run.variant.model} {pair.run.variant.quant} {pair.run.engine} {score.task}"
    if not score.valid:
        return Line(name=name, kind="invalid", reason=f"{score.status}: {'; '.join(score.reasons)}")
    if earlier is None:
        return Line(name=name, kind="not_enough_data", reason="no earlier score of this task")
    if is_reused(earlier, score):
        return Line(name=name, kind="fine", reason=outcome.obstacle)
    verdict = outcome.verdict
    if verdict is None:
        return Line(name=name, kind="not_enough_data", reason=f"not compared: {outcome.obstacle}")
    kind = "regression" if verdict.kind == "worse" else "fine"
    return Line(name=name, kind=kind, reason=f"{verdict.kind}: {verdict.reason}")


def run_lines(tonight: Tonight) -> list[Line]:
    """Return a line for each of tonight's runs with failures."""
    return [
        Line(
            name=f"{row.model} {row.quant} {row.engine}",
            kind="invalid",
            reason=f"{fmt.plural(row.failures, 'failure')}: {row.run_id}",
        )
        for row in tonight.runs
        if row.failures
    ]


def lost_lines(results_dir: Path, tonight: Tonight, unreadable: Mapping[str, str]) -> list[Line]:
    """Return a line for each run that started after tonight's and has no readable record."""
    newest = max(row.run_id for row in tonight.runs)
    started = [file.parent.name for file in results_dir.glob("runs/*/run.json")]
    reasons = {
        run_id: "the run has not finished: interrupted, or still running"
        for run_id in sorted(started)
        if run_id > newest and not (results_dir / "runs" / run_id / "record.json").exists()
    }
    reasons |= {run_id: f"the record cannot be read: {why}" for run_id, why in unreadable.items() if run_id > newest}
    return [Line(name=run_id, kind="invalid", reason=why) for run_id, why in reasons.items()]


def judged(results_dir: Path, session: str | None, *, newest: bool, again: bool = False) -> tuple[Tonight, list[Line]]:
    """Judge a session, the newest by default.

    Args:
        results_dir: results folder.
        session: None for the newest.
        newest: whether it is the newest session, apart from a second measurement.
        again: whether there is a second measurement, in a session of its own.

    Raises:
        StoreError: there is no such session, or a record cannot be read.
    """
    index = Index(results_dir)
    try:
        refreshed = index.refresh()
        tonight = tonight_of(index, session)
        lines = [
            *run_lines(tonight),
            *(lost_lines(results_dir, tonight, refreshed.unreadable) if newest else ()),
            *speed_lines(index, tonight, marks_of(results_dir), newest=newest and not again),
            *accuracy_lines(results_dir, index, tonight),
        ]
    finally:
        index.close()
    for run_id, why in refreshed.unreadable.items():
        sys.stderr.write(f"warning: {run_id} cannot be read and is skipped: {why}\n")
    return tonight, lines


def measure_again(results_dir: Path, tonight: Tonight, lines: Sequence[Line]) -> bool:
    """Measure the runs of alarmed series again; return whether there were any."""
    names = {line.name for line in lines if line.kind == "rerun"}
    rows = [row for row in tonight.runs if any(name.startswith(f"{row.model} {row.quant} ") for name in names)]
    for row in rows:
        command = [sys.executable, "-m", "bench.run", *_record(results_dir, row.run_id).command, "accuracy=none"]
        sys.stderr.write(f"measuring again: {shlex.join(command[1:])}\n")
        subprocess.run([*command, f"results_dir={results_dir}"], check=False)
    return bool(rows)
