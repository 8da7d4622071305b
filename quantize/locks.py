"""File locks, which one process holds at a time and the kernel releases however that process ends.

They use flock, whose module is imported only when a lock is taken, so that code without locks runs on any system.
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
    """Lock a file, created if necessary, until the returned stream is closed.

    A process that inherits the stream's descriptor holds the lock too.

    Raises:
        HeldError: another process holds it.
        OSError: it cannot be opened; NoLocksError if this system has no file locks.
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
    """Lock a file, created if necessary, for the duration of a ``with`` block; wait while another process holds it.

    Args:
        file: the file to lock; its folder must exist.
        on_wait: called once, before waiting.

    Yields:
        The file's descriptor; a process that inherits it holds the lock too.

    Raises:
        OSError: it cannot be opened; NoLocksError if this system has no file locks.
    """
    with file.open("w") as stream:
        try:
            _lock(stream, wait=False)
        except HeldError:
            on_wait()
            _lock(stream, wait=True)
        yield stream.fileno()


def is_held(file: Path) -> bool:
    """Return whether a process holds the lock of a file; False for a file that does not exist.

    Raises:
        OSError: it cannot be opened; NoLocksError if this system has no file locks.
    """
    if not file.exists():
        return False
    with file.open() as stream:
        try:
            _lock(stream, wait=False)
        except HeldError:
            return True
    return False
