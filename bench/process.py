"""Child processes that never outlive their run.

Each child leads its own process group and holds the read end of a pipe whose write end is ours: our own children exit
when it closes, which the kernel does even on ``kill -9``. Children of other programs that do not listen to it are
written down in the cache folder, and the next start ends those whose owner is gone.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench.errors import StoreError
from bench.paths import cache_dir

TERM_SECONDS = 10.0
"""How long a process group may take to end after SIGTERM before it is killed."""


def _registry() -> Path:
    return cache_dir() / "processes"


def _is_same(pid: int, create_time: float) -> bool:
    """Tell whether process ``pid`` still is the one that began at ``create_time`` (pids are reused)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_group(pgid: int, processes: Sequence[psutil.Process]) -> None:
    """End a process group: SIGTERM, then SIGKILL for what is left after a while."""
    for number, wait in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pgid, number)
        _, alive = psutil.wait_procs(list(processes), timeout=wait)
        if not alive:
            return


def end_orphans() -> list[str]:
    """End children whose owner was killed; return one line for each."""
    ended: list[str] = []
    for file in sorted(_registry().glob("*.json")):
        try:
            entry = json.loads(file.read_text())
            alive = _is_same(entry["pid"], entry["create_time"])
            owned = _is_same(entry["owner_pid"], entry["owner_create_time"])
        except (ValueError, KeyError, OSError):
            alive, owned, entry = False, False, {}
        if owned:
            continue
        if alive:
            leader = psutil.Process(entry["pid"])
            _end_group(entry["pid"], [leader, *leader.children(recursive=True)])
            ended.append(f"ended {entry['what']} (pid {entry['pid']}), left behind by a run that was killed")
        file.unlink(missing_ok=True)
    return ended


class Child:
    """A running child process and its whole group. Use as a context manager."""

    def __init__(self, argv: Sequence[str], *, what: str, log_file: Path, env: Mapping[str, str], cwd: Path) -> None:
        """Start ``argv`` with both outputs going to ``log_file``.

        Args:
            argv: the command.
            what: a name for people, e.g. ``server of smollm2-135m fp8``.
            log_file: created, or continued.
            env: added to this process's environment.
            cwd: working directory of the child.

        Raises:
            StoreError: the log or the registry cannot be written.
        """
        self.what = what
        self.log_file = log_file
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            _registry().mkdir(parents=True, exist_ok=True)
            self._log = log_file.open("ab")
        except OSError as error:
            raise StoreError(f"cannot write {error.filename}: {error.strerror}") from error
        # The child finds these packages too where they are not installed but run from a checkout.
        paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
        self._popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env},
            cwd=cwd,
            start_new_session=True,
        )
        owner = psutil.Process()
        self._process = psutil.Process(self._popen.pid)
        self._entry = _registry() / f"{self._popen.pid}.json"
        entry = {
            "pid": self._popen.pid,
            "create_time": self._process.create_time(),
            "owner_pid": owner.pid,
            "owner_create_time": owner.create_time(),
            "what": what,
        }
        self._entry.write_text(json.dumps(entry))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def exit_code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._popen.poll()

    def how_it_ended(self) -> str:
        """Return in words how the child ended, with its log's last lines."""
        code = self._popen.poll()
        ended = f"ended with code {code}"
        if code is not None and code < 0:
            ended = f"was killed by {signal.Signals(-code).name}"
            ended += " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"{ended}: {self.log_tail()} (log: {self.log_file})"

    def memory_bytes(self) -> int | None:
        """Return the resident memory of the child and its descendants; None once it is gone."""
        try:
            return sum(
                process.memory_info().rss for process in (self._process, *self._process.children(recursive=True))
            )
        except psutil.NoSuchProcess:
            return None

    def log_tail(self, lines: int = 4) -> str:
        """Return the log's last lines that say something, joined by `` | ``."""
        with self.log_file.open("rb") as stream:
            stream.seek(max(0, self.log_file.stat().st_size - 8192))
            text = stream.read().decode(errors="replace")
        said = [line.split("\r")[-1].strip() for line in text.splitlines()]
        return " | ".join([line for line in said if line][-lines:])

    def stop(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL. Harmless when it has ended already."""
        family = [self._process]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += self._process.children(recursive=True)
        if self._popen.poll() is None or len(family) > 1:
            _end_group(self._popen.pid, family)
        self._popen.wait()
        if self._popen.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()
        self._log.close()
        self._entry.unlink(missing_ok=True)
