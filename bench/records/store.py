"""Records on disk: each cell and score is a file of its own, written atomically as soon as it is measured.

``RESULTS/runs/RUN_ID/`` holds ``run.json`` (the record at the start), ``cells/*.json``, ``control/*.json`` (cells of
the baseline that was served next to the variant), ``scores/*.json`` and, once the run has ended, ``record.json`` (the
complete record) and ``SHA256SUMS`` (checksums of all these files, for ``sha256sum --check``). No file of an ended run
is written again. A run without ``record.json`` was interrupted and can be resumed.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.errors import StoreError
from bench.files import write_atomic
from bench.records.record import SCHEMA_VERSION, Environment, RunRecord, SpeedCell, TaskScore
from quantize import locks

T = TypeVar("T", bound=BaseModel)
CELLS, CONTROL = "cells", "control"
"""Folders of a run: its own cells, and those of the baseline that was served next to it."""
SUMS = "SHA256SUMS"
"""File of an ended run."""
LOCK = ".lock"
"""File that the process of a run locks."""


def is_held(folder: Path) -> bool:
    """Whether a process holds a run, which therefore has not ended."""
    return locks.is_held(folder / LOCK)


def _read(kind: type[T], file: Path) -> T:
    try:
        return kind.model_validate_json(file.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error
    except ValidationError as error:
        raise StoreError(
            f"{file} is not a {kind.__name__} of schema {SCHEMA_VERSION}: {error.errors()[0]['msg']}"
        ) from error


class RunFolder:
    """The folder of one run, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Lock the folder at ``path``; create it if it is missing.

        Raises:
            StoreError: it cannot be created, or another process holds it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = locks.hold(path / LOCK)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}; choose another folder with results_dir=…"
            ) from error
        except locks.HeldError:
            raise StoreError(f"{path} belongs to a run that is still going on") from None

    def begin(self, record: RunRecord) -> None:
        """Write the record as it is before the first measurement."""
        write_atomic(self.path / "run.json", record.model_dump_json(indent=1))

    def add_cell(self, cell: SpeedCell, place: str = CELLS) -> None:
        """Write a finished cell to the run's own (``CELLS``) or to the baseline's (``CONTROL``)."""
        load = f"c{cell.concurrency}" if cell.request_rate_per_s is None else f"r{cell.request_rate_per_s:g}"
        name = f"in{cell.input_len}-out{cell.output_len}-{load}-n{cell.n_requests}.json"
        write_atomic(self.path / place / name, cell.model_dump_json(indent=1))

    def add_score(self, score: TaskScore) -> None:
        """Write a finished score; its key is part of the file's name, so that later runs find it."""
        write_atomic(self.path / "scores" / f"{score.task}-{score.key[:16]}.json", score.model_dump_json(indent=1))

    def cells(self, place: str = CELLS) -> tuple[SpeedCell, ...]:
        """Return the cells written so far, ordered by shape."""
        return _cells(self.path / place)

    def scores(self) -> tuple[TaskScore, ...]:
        """Return the scores written so far, ordered by task."""
        return tuple(_read(TaskScore, file) for file in sorted((self.path / "scores").glob("*.json")))

    def finish(self, record: RunRecord) -> None:
        """Write the complete record and the checksums of all files of the run, which ends it."""
        write_atomic(self.path / "record.json", record.model_dump_json(indent=1))
        files = sorted(file for file in self.path.rglob("*.json") if not file.name.startswith("."))
        write_atomic(
            self.path / SUMS, "".join(f"{_sha256(file)}  {file.relative_to(self.path).as_posix()}\n" for file in files)
        )

    def release(self) -> None:
        """Unlock the folder for other processes."""
        self._lock.close()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sums_of(folder: Path) -> dict[str, str]:
    """Return {file: sha256} of an ended run; empty for an interrupted run, or one of an older version.

    Raises:
        StoreError: the checksums cannot be read.
    """
    file = folder / SUMS
    try:
        lines = file.read_text().splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {file}: {error}") from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def damaged_files(folder: Path) -> list[str]:
    """Return which files of a run are missing or have changed since it ended.

    Raises:
        StoreError: the checksums cannot be read.
    """
    wrong = []
    for name, digest in sums_of(folder).items():
        file = folder / name
        if not file.is_file():
            wrong.append(f"{name} is missing")
        elif _sha256(file) != digest:
            wrong.append(f"{name} has changed")
    return wrong


def _cells(folder: Path) -> tuple[SpeedCell, ...]:
    return tuple(sorted((_read(SpeedCell, file) for file in folder.glob("*.json")), key=_order))


def _order(cell: SpeedCell) -> tuple[float, ...]:
    """Return the sort key of a cell: closed loops first, then by load, then by length."""
    return (cell.request_rate_per_s or 0.0, cell.concurrency, cell.input_len, cell.output_len, cell.n_requests)


class Store:
    """All runs below one results folder."""

    def __init__(self, results_dir: Path) -> None:
        """Use ``results_dir``, which is created by the first write."""
        self.runs_dir = results_dir / "runs"

    def create(self, run_id: str) -> RunFolder:
        """Return the folder of a new run."""
        return RunFolder(self.runs_dir / run_id)

    def find_unfinished(self, key: str, environment: Environment) -> tuple[RunFolder, RunRecord] | None:
        """Return the newest interrupted run with this key, of the same environment, that no process holds."""
        for file in sorted(self.runs_dir.glob("*/run.json"), reverse=True):
            if (file.parent / "record.json").exists():
                continue
            try:
                begun = _read(RunRecord, file)
                if begun.key == key and begun.environment == environment:
                    return RunFolder(file.parent), begun
            except StoreError:
                continue
        return None

    def score(self, task: str, key: str) -> tuple[TaskScore, str] | None:
        """Return the newest valid score of a task with this key, and the id of its run."""
        for file in sorted(self.runs_dir.glob(f"*/scores/{task}-{key[:16]}.json"), reverse=True):
            with contextlib.suppress(StoreError):
                score = _read(TaskScore, file)
                if score.key == key and score.valid:
                    return score, file.parent.parent.name
        return None

    def journal(self, folder: RunFolder, name: str) -> Path:
        """Return the file of the answers to a task's questions; a new one is a copy of the longest of other runs."""
        file = folder.path / "answers" / f"{name}.jsonl"
        if not file.exists() and (others := list(self.runs_dir.glob(f"*/answers/{name}.jsonl"))):
            longest = max(others, key=lambda other: other.stat().st_size)
            write_atomic(file, longest.read_bytes())
        return file

    def find_done(self, session: str, key: str, environment: Environment) -> RunRecord | None:
        """Return the session's newest complete run with this key, on a machine of the same kind."""
        ended = [record for record in self.records(session) if record.key == key and is_complete(record)]
        return next((record for record in reversed(ended) if _alike(record.environment, environment)), None)

    def records(self, session: str | None = None) -> Iterator[RunRecord]:
        """Yield every run, or every run of a session, oldest first; an interrupted one with what it has so far.

        Raises:
            StoreError: a run cannot be read; only where ``session`` is None, otherwise such a run is left out.
        """
        for folder in sorted(path.parent for path in self.runs_dir.glob("*/run.json")):
            try:
                begun = _read(RunRecord, folder / "run.json")
            except StoreError:
                if session is None:
                    raise
                continue
            if session in (None, begun.session):
                complete = folder / "record.json"
                yield _read(RunRecord, complete) if complete.exists() else partial(folder, begun)

    def newest(self, count: int) -> list[RunRecord]:
        """Return the newest ``count`` ended runs, newest first, without those that cannot be read."""
        ended: list[RunRecord] = []
        for file in sorted(self.runs_dir.glob("*/record.json"), reverse=True)[:count]:
            with contextlib.suppress(StoreError):
                ended.append(_read(RunRecord, file))
        return ended


def unfinished_places(results_dir: Path, session: str, commands: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the indices of the commands for which a session has no ended run."""
    ended = [record.command for record in Store(results_dir).records(session) if record.finished_at is not None]
    return [place for place, command in enumerate(commands) if command not in ended]


def _alike(first: Environment, second: Environment) -> bool:
    """Whether two environments differ in the host name at most, as those of like machines of a cluster do."""
    return first.model_copy(update={"hostname": ""}) == second.model_copy(update={"hostname": ""})


def is_complete(record: RunRecord) -> bool:
    """Whether a run has ended with nothing failed or invalid."""
    control = record.control.cells if record.control else ()
    states = {cell.status for cell in (*record.cells, *control)} | {score.status for score in record.scores}
    return record.finished_at is not None and not record.failures and not states & {"failed", "invalid"}


def read_begun(folder: Path) -> RunRecord:
    """Return the record that a run wrote before its first measurement.

    Raises:
        StoreError: it cannot be read.
    """
    return _read(RunRecord, folder / "run.json")


def partial(folder: Path, begun: RunRecord) -> RunRecord:
    """Return the record of an interrupted run, with the cells and scores that it wrote."""
    cells = _cells(folder / CELLS)
    scores = tuple(_read(TaskScore, file) for file in sorted((folder / "scores").glob("*.json")))
    control = begun.control and begun.control.model_copy(update={"cells": _cells(folder / CONTROL)})
    return begun.model_copy(update={"cells": cells, "scores": scores, "control": control})


def to_plain(value: BaseModel) -> dict[str, Any]:
    """Return a value as plain JSON data."""
    plain: dict[str, Any] = json.loads(value.model_dump_json())
    return plain
