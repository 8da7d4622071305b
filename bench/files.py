"""Atomic writes and appends."""

import os
from pathlib import Path

from bench.errors import StoreError


def write_atomic(file: Path, content: str | bytes) -> None:
    """Write text, as UTF-8, or bytes atomically: the file is the old one, the new one or absent, never partial.

    This also holds after ``kill -9`` and on a full disk.

    Raises:
        StoreError: the file cannot be written.
    """
    work = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with work.open("wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            work.replace(file)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error.strerror}") from error


def append(file: Path, text: str) -> None:
    """Append text to a file.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(text)
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error.strerror}") from error
