"""An index over all records of a results folder, for queries across runs without reading every file.

``RESULTS/index.sqlite`` is derived from the ``record.json`` of each run and can be deleted at any time.
:meth:`Index.refresh` reads new and changed records. It uses SQLite's WAL mode, so that one process can write while
others read.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.analysis.baseline import control_cell
from bench.errors import StoreError
from bench.history.series import EpochMark, Figure, Measurement, value_of
from bench.records.record import RunRecord, SpeedCell, TaskScore
from bench.records.store import sums_of
from bench.speed.figures import MeasuredCell, measured_cell, per_trial
from bench.speed.metrics import tpot_s, ttft_s
from quantize.key import Frozen, canonical_json, sha256_text

NAME = "index.sqlite"
VERSION = 6
"""Increase it when the tables change: an older file is rebuilt."""
BUSY_S = 60
"""Longest wait for another writing process, seconds."""
MARKS = "epochs.json"
"""File in the results folder with manually accepted epochs."""
SET_ASIDE = "set-aside"
"""Folder in RESULTS for runs whose record cannot be read."""
TABLES = """
create table runs (
  run_id text primary key, session text, model text, quant text, engine text, key text, hostname text, device text,
  epoch text, started_at text, finished_at text, failures integer, sha256 text, bytes integer, mtime_ns integer
);
create table cells (
  run_id text references runs on delete cascade, control integer, model text, quant text, engine text, status text,
  input_len integer, output_len integer, concurrency integer, request_rate_per_s real,
  interleaved integer, started_at text, decode real, decode_problem text, prefill real, prefill_problem text
);
create table scores (
  run_id text references runs on delete cascade, model text, quant text, engine text, status text, task text,
  repeat integer, thinking integer, metric text, value real, stderr real, n_items integer, started_at text
);
create table courses (
  model text, quant text, engine text, input_len integer, output_len integer, concurrency integer, figure text,
  signature text, through text, runs integer, state text,
  primary key (model, quant, engine, input_len, output_len, concurrency, figure)
);
create index cells_by_series on cells (model, quant, engine, input_len, output_len, concurrency, control, started_at);
create index cells_by_run on cells (run_id);
create index scores_by_series on scores (model, quant, engine, task, started_at);
create index scores_by_run on scores (run_id);
"""


class RunRow(Frozen):
    """One run, as shown in lists."""

    run_id: str
    session: str
    model: str
    quant: str
    engine: str
    hostname: str
    device: str | None
    epoch: str
    started_at: str
    finished_at: str | None
    failures: int
    cells: int
    scores: int


class SeriesKey(Frozen):
    """The key of a series: one variant on one engine under one closed-loop load."""

    model: str
    quant: str
    engine: str
    input_len: int
    output_len: int
    concurrency: int


class RefreshResult(Frozen):
    """Result of a refresh."""

    read: int
    removed: int
    unreadable: dict[str, str]
    """{run id: reason}."""


def epoch_of(record: RunRecord) -> str:
    """Return a hash of the conditions that must be equal for speeds to be compared, as 12 hexadecimal digits.

    The conditions are the machine, its devices and driver, the engine with its version and settings, the packages that
    compute, and the client's event loop unless it is uvloop, which all earlier runs had.
    """
    machine = record.environment
    conditions = {
        "hostname": machine.hostname,
        "cpu": [machine.cpu, machine.cpu_cores],
        "gpus": machine.gpus,
        "variables": machine.variables,
        "packages": {name: version for name, version in machine.packages.items() if name != "quantbench"},
        "engine": [record.engine, record.spec.engine.model_dump(), record.server and record.server.version],
        **({} if machine.event_loop == "uvloop" else {"event_loop": machine.event_loop}),
    }
    return sha256_text(canonical_json(conditions))[:12]


class Index:
    """The index of one results folder."""

    def __init__(self, results_dir: Path) -> None:
        """Open the index, or create it.

        Raises:
            StoreError: it can be neither read nor created.
        """
        self._results_dir = results_dir
        self._file = results_dir / NAME
        try:
            results_dir.mkdir(parents=True, exist_ok=True)
            self._db = self._connect()
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open {self._file}: {error}; it can be deleted without losing anything") from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=BUSY_S, isolation_level=None)

    def _open(self) -> None:
        try:
            self._db.execute("pragma journal_mode=wal")
        except sqlite3.DatabaseError:  # not a database: a truncated copy, or another file of this name
            self._db.close()
            self._file.unlink()
            self._db = self._connect()
            self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=normal")
        self._db.execute("pragma cache_size=-65536")  # KiB; a series is scattered over many pages
        self._db.execute("pragma foreign_keys=on")
        if self._db.execute("pragma user_version").fetchone()[0] != VERSION:
            self._create()

    def _create(self) -> None:
        with self._writing():
            if self._db.execute("pragma user_version").fetchone()[0] == VERSION:
                return
            for table in ("cells", "scores", "courses", "runs"):
                self._db.execute(f"drop table if exists {table}")
            for statement in filter(str.strip, TABLES.split(";")):
                self._db.execute(statement)
            self._db.execute(f"pragma user_version={VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._reporting():
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._file}: {error}; it can be deleted without losing anything") from error

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reporting():
            return self._db.execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def refresh(self) -> RefreshResult:
        """Add new and changed runs, each as soon as it is read, and remove deleted ones.

        Raises:
            StoreError: the index cannot be written.
        """
        known = {row[0]: row[1:] for row in self._query("select run_id, bytes, mtime_ns from runs")}
        files = {file.parent.name: file for file in self._results_dir.glob("runs/*/record.json")}
        read, unreadable = 0, {}
        for run_id, file in files.items():
            try:
                stat = file.stat()
                if known.get(run_id) == (stat.st_size, stat.st_mtime_ns):
                    continue
                content = file.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                if sums_of(file.parent).get(file.name, digest) != digest:
                    unreadable[run_id] = f"{file.name} has changed since the run ended"
                    continue
                record = RunRecord.model_validate_json(content)
            except (OSError, ValidationError, StoreError) as error:
                unreadable[run_id] = str(error).splitlines()[0]
                continue
            with self._writing():
                self._remove(run_id)
                self._add(run_id, record, digest, stat)
            read += 1
        deleted = known.keys() - files.keys()
        if deleted:
            with self._writing():
                for run_id in deleted:
                    self._remove(run_id)
        return RefreshResult(read=read, removed=len(deleted), unreadable=unreadable)

    def rebuild(self) -> RefreshResult:
        """Rebuild the index from the records."""
        with self._writing():
            self._db.execute("delete from runs")
        return self.refresh()

    def _remove(self, run_id: str) -> None:
        self._db.execute("delete from runs where run_id = ?", (run_id,))

    def _add(self, run_id: str, record: RunRecord, digest: str, stat: os.stat_result) -> None:
        variant = record.variant
        self._insert(
            "runs",
            (
                run_id, record.session, variant.model, variant.quant, record.engine, record.key,
                record.environment.hostname, record.device.name if record.device else None, epoch_of(record),
                record.started_at, record.finished_at, len(record.failures), digest,
                stat.st_size, stat.st_mtime_ns,
            ),
        )  # fmt: skip
        for cell in record.cells:
            self._insert("cells", (run_id, 0, *_cell(cell, control_cell(record, cell), record.started_at)))
        for cell in record.control.cells if record.control else ():
            self._insert("cells", (run_id, 1, *_cell(cell, None, record.started_at)))
        for score in record.scores:
            for row in _score(score, record.started_at):
                self._insert("scores", (run_id, *row))

    def _insert(self, table: str, values: Sequence[Any]) -> None:
        self._db.execute(f"insert into {table} values ({', '.join('?' * len(values))})", values)

    def runs(self, *, model: str | None = None, quant: str | None = None, limit: int = -1) -> list[RunRow]:
        """Return runs, newest first."""
        rows = self._query(
            "select run_id, session, model, quant, engine, hostname, device, epoch, started_at, finished_at, failures,"
            " (select count(*) from cells where cells.run_id = runs.run_id and control = 0),"
            " (select count(distinct task) from scores where scores.run_id = runs.run_id)"
            " from runs where (?1 is null or model = ?1) and (?2 is null or quant = ?2)"
            " order by started_at desc, run_id desc limit ?3",
            (model, quant, limit),
        )
        names = tuple(RunRow.model_fields)
        return [RunRow.model_validate(dict(zip(names, row, strict=True))) for row in rows]

    def fingerprints(self) -> dict[str, str]:
        """Return {run id: sha256 of its record}."""
        return dict(self._query("select run_id, sha256 from runs"))

    def variants(self) -> list[tuple[str, str, str]]:
        """Return (model, quant, engine) of every run."""
        return self._query("select distinct model, quant, engine from runs order by 1, 2, 3")

    def series(self, of: Iterable[tuple[str, str, str]] | None = None) -> list[SeriesKey]:
        """Return the series of closed loops in the records, of all variants or the given ones."""
        rows = [
            row
            for variant in sorted(set(self.variants() if of is None else of))
            for row in self._query(
                "select distinct model, quant, engine, input_len, output_len, concurrency from cells"
                " where model = ? and quant = ? and engine = ? and control = 0 and request_rate_per_s is null"
                " order by 1, 2, 3, 4, 5, 6",
                variant,
            )
        ]
        names = tuple(SeriesKey.model_fields)
        return [SeriesKey.model_validate(dict(zip(names, row, strict=True))) for row in rows]

    def nights(self, key: SeriesKey, figure: Figure, *, after: str = "") -> list[Measurement]:
        """Return the history of a series, oldest first; only runs started after ``after``."""
        rows = self._query(
            f"select c.run_id, c.started_at, r.epoch, c.{figure}, c.{figure}_problem from cells c"
            " join runs r using (run_id) where c.model = ? and c.quant = ? and c.engine = ? and c.input_len = ?"
            " and c.output_len = ? and c.concurrency = ? and c.control = 0 and c.request_rate_per_s is null"
            " and c.started_at > ? order by c.started_at, c.run_id",
            (*_values(key), after),
        )
        return [Measurement(*row) for row in rows]

    def courses(
        self, signature: str, of: Iterable[tuple[str, str, str]]
    ) -> dict[tuple[SeriesKey, str], tuple[str, str]]:
        """Return {(series, figure): (through, state)} for the valid states of variants stored under a signature.

        A state is valid while the number of the series' runs up to ``through`` is unchanged.
        """
        fields = ", ".join(SeriesKey.model_fields)
        same = " and ".join(f"c.{name} = k.{name}" for name in SeriesKey.model_fields)
        rows = [
            row
            for variant in of
            for row in self._query(
                f"select {fields}, figure, through, state from courses k where model = ? and quant = ? and engine = ?"
                f" and signature = ? and runs = (select count(*) from cells c where {same} and c.control = 0"
                " and c.request_rate_per_s is null and c.started_at <= k.through)",
                (*variant, signature),
            )
        ]
        return {(_key(row), row[-3]): (row[-2], row[-1]) for row in rows}

    def keep_courses(self, signature: str, states: Iterable[tuple[SeriesKey, str, str, str]]) -> None:
        """Store (series, figure, through, state) for :meth:`courses`."""
        same = " and ".join(f"{name} = ?" for name in SeriesKey.model_fields)
        with self._writing():
            for key, figure, through, state in states:
                values = _values(key)
                self._db.execute(
                    f"insert or replace into courses values ({', '.join('?' * len(values))}, ?, ?, ?, (select count(*)"
                    f" from cells where {same} and control = 0 and request_rate_per_s is null and started_at <= ?), ?)",
                    (*values, figure, signature, through, *values, through, state),
                )


def _values(key: SeriesKey) -> tuple[Any, ...]:
    return (key.model, key.quant, key.engine, key.input_len, key.output_len, key.concurrency)


def _key(row: Sequence[Any]) -> SeriesKey:
    return SeriesKey.model_construct(**dict(zip(SeriesKey.model_fields, row, strict=False)))


def _cell(cell: SpeedCell, control: MeasuredCell | None, started_at: str) -> tuple[Any, ...]:
    figures: list[float | str | None] = []
    own = measured_cell(cell)
    for figure in (tpot_s, ttft_s):
        times, control_times = (per_trial(each, figure) if each else [] for each in (own, control))
        value = value_of(times, control_times, cell.status)
        figures += [None, value] if isinstance(value, str) else [value, None]
    return (
        cell.variant.model, cell.variant.quant, cell.engine, cell.status, cell.input_len, cell.output_len,
        cell.concurrency, cell.request_rate_per_s, int(cell.interleaved), started_at, *figures,
    )  # fmt: skip


def _score(score: TaskScore, started_at: str) -> Iterator[tuple[Any, ...]]:
    variant = score.variant
    common = (variant.model, variant.quant, score.engine, score.status, score.task, score.repeat, score.thinking)
    for metric in score.metrics:
        yield (*common, metric.name, metric.value, metric.stderr, score.n_items, started_at)
    if not score.metrics:
        yield (*common, None, None, None, score.n_items, started_at)


def set_aside(results_dir: Path, run_id: str) -> Path:
    """Move a run whose record cannot be read to `SET_ASIDE` and return its new path.

    Raises:
        StoreError: it cannot be moved.
    """
    target = results_dir / SET_ASIDE / run_id
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        (results_dir / "runs" / run_id).rename(target)
    except OSError as error:
        raise StoreError(f"cannot move {run_id} to {target}: {error.strerror}") from error
    return target


def marks_of(results_dir: Path) -> list[EpochMark]:
    """Return the manually accepted epochs.

    Raises:
        StoreError: the file cannot be read.
    """
    file = results_dir / MARKS
    try:
        return [EpochMark.model_validate(entry) for entry in json.loads(file.read_text())] if file.exists() else []
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(f"{file}: {str(error).splitlines()[0]}") from error
