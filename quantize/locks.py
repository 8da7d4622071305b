"""Files that one process holds at a time; the kernel lets go of them however that process ends.

The lock is flock's. The module for it is imported when a lock is taken, so that what takes none runs on any system.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

NO_LOCKS = (
    "this system has no file locks (Python's fcntl): run, build and quantize on Linux; "
    "compare, decide, export, plan and site work here"
)


class HeldError(Exception):
    """Another process holds the file."""


class NoLocksError(OSError):
    """This system has no file locks."""


def _lock(stream: IO[str], *, wait: bool) -> None:
    """Take the lock of an open file.

    Raises:
        HeldError: another process holds it, and ``wait`` is false.
        NoLocksError: this system has none.
    """
    try:
        import fcntl
    except ImportError:
        raise NoLocksError(errno.ENOSYS, NO_LOCKS) from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HeldError(f"another process holds {stream.name}") from None


def hold(file: Path) -> IO[str]:
    """Take a file, created if need be, until the stream that is returned is closed.

    A process that inherits the stream's descriptor holds the file too.

    Raises:
        HeldError: another process holds it.
        OSError: it cannot be opened; NoLocksError where this system has no file locks.
    """
    stream = file.open("w")
    try:
        _lock(stream, wait=False)
    except BaseException:
        stream.close()
        raise
    return stream


@contextlib.contextmanager
def held(file: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """Hold a file, created if need be, for the duration of a ``with`` block; wait while another process holds it.

    Args:
        file: its folder must exist.
        on_wait: called once, before waiting.

    Yields:
        The file's descriptor; a process that inherits it holds the file too.

    Raises:
        OSError: it cannot be opened; NoLocksError where this system has no file locks.
    """
    with file.open("w") as stream:
        try:
            _lock(stream, wait=False)
        except HeldError:
            on_wait()
            _lock(stream, wait=True)
        yield stream.fileno()


def is_held(file: Path) -> bool:
    """Tell whether a process holds a file; one that does not exist is held by none.

    Raises:
        OSError: it cannot be opened; NoLocksError where this system has no file locks.
    """
    if not file.exists():
        return False
    with file.open() as stream:
        try:
            _lock(stream, wait=False)
        except HeldError:
            return True
    return False
