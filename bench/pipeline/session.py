"""The session of a command: its runs share it, and the same command resumes it after an interrupt."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import ValidationError

from bench.errors import StoreError
from bench.files import write_atomic
from quantize import locks
from quantize.clock import utc_name, utc_now
from quantize.key import Frozen


class _SessionFile(Frozen):
    """Contents of ``RESULTS/sessions/NAME.json``; the file is deleted when the command has finished."""

    name: str
    command: tuple[str, ...]
    attempt_at: str = ""
    """Start of this attempt, UTC, ISO 8601: runs that finished before it are not repeated."""


class CommandSession:
    """The session of one command, held by one process. Use as a context manager around the whole command."""

    def __init__(self, results_dir: Path, command: Sequence[str]) -> None:
        """Resume the interrupted session of the same command, or start a new one.

        Raises:
            StoreError: the results folder cannot be written, or another process has just started the same command.
        """
        self._folder = results_dir / "sessions"
        interrupted = self._interrupted(tuple(command))
        self.resumed = interrupted is not None
        self.name = interrupted or f"{utc_name()}-{os.getpid()}"
        self._file = self._folder / f"{self.name}.json"
        self.command = tuple(command)
        self.attempts = 0
        self.begin_attempt()
        lock = self._file.with_suffix(".lock")
        try:
            self._lock: IO[str] = locks.hold(lock)
        except locks.HeldError:
            raise StoreError(f"another process has just started the same command; it holds {lock}") from None
        except OSError as error:
            raise StoreError(f"cannot lock {lock}: {error.strerror}") from error

    def begin_attempt(self) -> None:
        """Start an attempt at the command; jobs finished in earlier attempts are not run again."""
        self.attempts += 1
        self.attempt_at = utc_now("microseconds")
        content = _SessionFile(name=self.name, command=self.command, attempt_at=self.attempt_at)
        write_atomic(self._file, content.model_dump_json())

    def _interrupted(self, command: tuple[str, ...]) -> str | None:
        """Return the newest session of the same command that no process holds, or None."""
        for file in sorted(self._folder.glob("*.json"), reverse=True):
            try:
                session = _SessionFile.model_validate_json(file.read_bytes())
                taken = locks.is_held(file.with_suffix(".lock"))
            except (OSError, ValidationError):
                continue
            if session.command == command and not taken:
                return session.name
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the session; delete its file if the command finished."""
        if error is None:
            self._file.unlink(missing_ok=True)
            self._file.with_suffix(".lock").unlink(missing_ok=True)
        self._lock.close()


def attempt_of(results_dir: Path, session: str) -> str | None:
    """Return the start of a session's current attempt, UTC, ISO 8601; None if there is no such session."""
    try:
        return _SessionFile.model_validate_json((results_dir / "sessions" / f"{session}.json").read_bytes()).attempt_at
    except (OSError, ValidationError):
        return None
