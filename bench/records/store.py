"""Records on disk: written whole or not at all, one file for each thing that was measured, as soon as it was.

``RESULTS/runs/RUN_ID/`` holds ``run.json`` (what was begun), ``cells/*.json``, ``control/*.json`` (cells of a baseline
served beside), ``scores/*.json`` and, when the run has ended, ``record.json`` with everything in it and ``SHA256SUMS``
over all of them, as ``sha256sum --check`` reads it: nothing of an ended run is written again. A run without
``record.json`` was cut short and can be gone on with.
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
"""Folders of a run: its own cells, and those of the baseline served beside it."""
SUMS = "SHA256SUMS"
"""File of an ended run."""
LOCK = ".lock"
"""File that the process of a run holds."""


def is_held(folder: Path) -> bool:
    """Tell whether a run is still going on."""
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
        """Take the folder at ``path``, creating it if need be.

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
        """Write down what is begun, before anything is measured."""
        write_atomic(self.path / "run.json", record.model_dump_json(indent=1))

    def add_cell(self, cell: SpeedCell, place: str = CELLS) -> None:
        """Keep a finished cell: among the run's own, or among the baseline's (``CONTROL``)."""
        load = f"c{cell.concurrency}" if cell.request_rate_per_s is None else f"r{cell.request_rate_per_s:g}"
        name = f"in{cell.input_len}-out{cell.output_len}-{load}-n{cell.n_requests}.json"
        write_atomic(self.path / place / name, cell.model_dump_json(indent=1))

    def add_score(self, score: TaskScore) -> None:
        """Keep a finished task; its key is part of the file's name, so that later runs find it."""
        write_atomic(self.path / "scores" / f"{score.task}-{score.key[:16]}.json", score.model_dump_json(indent=1))

    def cells(self, place: str = CELLS) -> tuple[SpeedCell, ...]:
        """Return the cells kept so far, by shape."""
        return _cells(self.path / place)

    def scores(self) -> tuple[TaskScore, ...]:
        """Return the scores kept so far, by task."""
        return tuple(_read(TaskScore, file) for file in sorted((self.path / "scores").glob("*.json")))

    def finish(self, record: RunRecord) -> None:
        """Write the whole record and the sums of everything that the run has kept: it has ended."""
        write_atomic(self.path / "record.json", record.model_dump_json(indent=1))
        files = sorted(file for file in self.path.rglob("*.json") if not file.name.startswith("."))
        write_atomic(
            self.path / SUMS, "".join(f"{_sha256(file)}  {file.relative_to(self.path).as_posix()}\n" for file in files)
        )

    def release(self) -> None:
        """Let other processes take the folder."""
        self._lock.close()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sums_of(folder: Path) -> dict[str, str]:
    """Return {file: sha256} of an ended run; nothing of one that was cut short or is of an older version.

    Raises:
        StoreError: the sums cannot be read.
    """
    file = folder / SUMS
    try:
        lines = file.read_text().splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read {file}: {error}") from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def damaged_files(folder: Path) -> list[str]:
    """Return which files of a run are not as they were when it ended.

    Raises:
        StoreError: the sums cannot be read.
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
    kept = [_read(SpeedCell, file) for file in folder.glob("*.json")]
    return tuple(sorted(kept, key=_place))


def _place(cell: SpeedCell) -> tuple[float, ...]:
    """Return where a cell stands among others: closed loops first, then by load, then by length."""
    return (cell.request_rate_per_s or 0.0, cell.concurrency, cell.input_len, cell.output_len, cell.n_requests)


class Store:
    """All runs below one results folder."""

    def __init__(self, results_dir: Path) -> None:
        """Use ``results_dir``; nothing is created until something is written."""
        self.runs_dir = results_dir / "runs"

    def create(self, run_id: str) -> RunFolder:
        """Return the folder of a new run."""
        return RunFolder(self.runs_dir / run_id)

    def find_unfinished(self, key: str, environment: Environment) -> tuple[RunFolder, RunRecord] | None:
        """Return the newest run with this key, cut short in this very environment, that no process holds."""
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
        """Return (score, run id) of a task measured before under the same key, newest first."""
        for file in sorted(self.runs_dir.glob(f"*/scores/{task}-{key[:16]}.json"), reverse=True):
            with contextlib.suppress(StoreError):
                score = _read(TaskScore, file)
                if score.key == key and score.status in ("ok", "emulated"):
                    return score, file.parent.parent.name
        return None

    def journal(self, folder: RunFolder, name: str) -> Path:
        """Return where the answers to a task's questions are kept, beginning with the most that an earlier run has."""
        file = folder.path / "answers" / f"{name}.jsonl"
        if not file.exists() and (others := list(self.runs_dir.glob(f"*/answers/{name}.jsonl"))):
            most = max(others, key=lambda other: other.stat().st_size)
            write_atomic(file, most.read_bytes())
        return file

    def find_done(self, session: str, key: str, environment: Environment) -> RunRecord | None:
        """Return the session's newest run with this key, on a machine like this, that has ended with all it was for."""
        ended = [record for record in self.records(session) if record.key == key and is_complete(record)]
        return next((record for record in reversed(ended) if _alike(record.environment, environment)), None)

    def records(self, session: str | None = None) -> Iterator[RunRecord]:
        """Yield every run, or every run of a session, oldest first: ended or with what they have so far.

        Raises:
            StoreError: a run cannot be read; only where all are asked for.
        """
        for folder in sorted(path.parent for path in self.runs_dir.glob("*/run.json")):
            try:
                begun = _read(RunRecord, folder / "run.json")
            except StoreError:
                if session is None:
                    raise
                continue
            if session in (None, begun.session):
                done = folder / "record.json"
                yield _read(RunRecord, done) if done.exists() else partial(folder, begun)

    def newest(self, count: int) -> list[RunRecord]:
        """Return up to ``count`` ended runs, newest first, passing over those that cannot be read."""
        ended: list[RunRecord] = []
        for file in sorted(self.runs_dir.glob("*/record.json"), reverse=True)[:count]:
            with contextlib.suppress(StoreError):
                ended.append(_read(RunRecord, file))
        return ended


def unfinished_places(results_dir: Path, session: str, commands: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the places of those commands of a session's runs that no run has ended."""
    ended = [record.command for record in Store(results_dir).records(session) if record.finished_at is not None]
    return [place for place, command in enumerate(commands) if command not in ended]


def _alike(first: Environment, second: Environment) -> bool:
    """Tell whether two environments are the same but for the machine's name: those of a cluster's like machines are."""
    return first.model_copy(update={"hostname": ""}) == second.model_copy(update={"hostname": ""})


def is_complete(record: RunRecord) -> bool:
    """Tell whether a run has ended and nothing in it failed or was invalid."""
    control = record.control.cells if record.control else ()
    states = {cell.status for cell in (*record.cells, *control)} | {score.status for score in record.scores}
    return record.finished_at is not None and not record.failures and not states & {"failed", "invalid"}


def read_begun(folder: Path) -> RunRecord:
    """Return what a run began with.

    Raises:
        StoreError: it cannot be read.
    """
    return _read(RunRecord, folder / "run.json")


def partial(folder: Path, begun: RunRecord) -> RunRecord:
    """Return a run that was cut short, with the cells and scores it has kept."""
    cells = _cells(folder / CELLS)
    scores = tuple(_read(TaskScore, file) for file in sorted((folder / "scores").glob("*.json")))
    control = begun.control and begun.control.model_copy(update={"cells": _cells(folder / CONTROL)})
    return begun.model_copy(update={"cells": cells, "scores": scores, "control": control})


def to_plain(value: BaseModel) -> dict[str, Any]:
    """Return a value as plain JSON data."""
    plain: dict[str, Any] = json.loads(value.model_dump_json())
    return plain
