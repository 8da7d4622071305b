"""Answers on disk, one per line, appended on arrival, so that no question is asked twice."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.accuracy.questions import Answer
from bench.errors import StoreError


class Journal:
    """The answers to one task's questions, by the questions' digests. Only one process may write it."""

    def __init__(self, file: Path) -> None:
        """Read the existing answers, and drop an incomplete last line.

        Raises:
            StoreError: the file cannot be read or written.
        """
        self.answers: dict[str, Answer] = {}
        self.dropped = 0
        """Number of unreadable lines, whose questions are asked again."""
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = file.open("ab+", buffering=0)
            self._stream.seek(0)
            self._read(self._stream.readlines())
        except OSError as error:
            raise StoreError(f"cannot keep answers in {file}: {error.strerror}") from error

    def _read(self, lines: list[bytes]) -> None:
        complete = [line for line in lines if line.endswith(b"\n")]
        self.dropped = len(lines) - len(complete)
        for line in complete:
            try:
                digest, answer = json.loads(line)
                self.answers[digest] = Answer.model_validate(answer)
            except (ValueError, TypeError):
                self.dropped += 1
        self._stream.truncate(sum(map(len, complete)))

    def add(self, digest: str, answer: Answer) -> None:
        """Write an answer. The kernel has it when this returns, so killing this process loses nothing.

        Raises:
            StoreError: it cannot be written.
        """
        self.answers[digest] = answer
        line = json.dumps([digest, answer.model_dump(exclude_defaults=True)]).encode() + b"\n"
        try:
            written = self._stream.write(line)
        except OSError as error:
            raise StoreError(f"cannot keep answers in {self.file}: {error.strerror}") from error
        if written != len(line):
            raise StoreError(f"cannot keep answers in {self.file}: the disk is full")

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stream.close()
