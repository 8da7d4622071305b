"""Start child processes that end with their run, however it ends, and end those that a killed run left behind.

Each child leads its own session and reads from a pipe that this process holds open. quantbench's own children exit when
the pipe closes, which happens even on ``kill -9``. Other programs ignore it; they are registered in the cache folder,
and the next start ends those whose owner is gone.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.errors import StoreError
from bench.machine.diagnose import last_words, lines_of, why
from bench.machine.direct import loopback_variables
from bench.paths import cache_dir
from quantize.search_path import search_path

TERM_S = 10.0
"""Longest time for a session to end after SIGTERM before it is killed."""
POLL_S = 0.25
"""Interval of checks on a child's result or a starting server. Chosen: short compared with their duration."""
END_POLL_S = 0.05
"""Interval of checks on a session that is ending. Chosen: too short to notice."""
LOG_BYTES = 2**20
"""Length of a log's tail that is searched for errors."""
CLOCK_SLACK_S = 2.5
"""Largest difference between two readings of one start time: they count from boot, which moves as the clock is set.
Chosen: more than clock adjustments, less than it takes for a process id to be reused."""


def _registry() -> Path:
    return cache_dir() / "processes"


def _host() -> str:
    """Return an id of this machine since its last boot, which differs from other machines with the same home."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def _is_same(pid: int, create_time: float) -> bool:
    """Return whether process ``pid`` is still the one that started at ``create_time`` (pids are reused)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < CLOCK_SLACK_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def session_members(leader: int, create_time: float) -> list[psutil.Process]:
    """Return the living processes of the session that ``leader`` started at ``create_time``, even if it has ended.

    Descendants of a server stay in its session even when their parent is gone. A session id is reused only once the
    session is empty: a leader that started at another time leads another session.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(leader).create_time() - create_time) >= CLOCK_SLACK_S:
            return []
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if (
                os.getsid(process.pid) == leader
                and process.create_time() >= create_time - CLOCK_SLACK_S
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                members.append(process)
    return members


def _end_session(leader: int, create_time: float) -> None:
    """End all processes of a session: SIGTERM to its leader first, which can end the others in order.

    Processes that remain when the leader is gone get SIGTERM too, and then SIGKILL.
    """
    members = session_members(leader, create_time)
    _signal(signal.SIGTERM, [process for process in members if process.pid == leader])
    _signal(signal.SIGTERM, session_members(leader, create_time))
    _signal(signal.SIGKILL, session_members(leader, create_time))


def _signal(number: signal.Signals, processes: Sequence[psutil.Process]) -> None:
    """Send a signal to processes and wait up to `TERM_S` for them to end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a stopped process receives no other signal
    end = time.monotonic() + TERM_S
    # Not psutil.wait_procs, which would consume the exit code of a child of this process.
    while any(_lives(process) for process in processes) and time.monotonic() < end:
        time.sleep(END_POLL_S)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def end_orphans() -> list[str]:
    """End children whose owner was killed; return one line for each."""
    ended: list[str] = []
    for file in sorted(_registry().glob("*.json")):
        try:
            entry = json.loads(file.read_text())
            if entry["host"] != _host():
                continue  # several machines may share a home
            has_owner = _is_same(entry["owner_pid"], entry["owner_create_time"])
            orphans = [] if has_owner else session_members(entry["pid"], entry["create_time"])
        except (ValueError, KeyError, OSError):
            has_owner, orphans, entry = False, [], {}
        if has_owner:
            continue
        if orphans:
            _end_session(entry["pid"], entry["create_time"])
            ended.append(f"ended {entry['what']} (pid {entry['pid']}), which a killed run had left behind")
        file.unlink(missing_ok=True)
    return ended


class Child:
    """A running child process and all of its session. Use as a context manager."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        what: str,
        log_file: Path,
        env: Mapping[str, str],
        cwd: Path,
        explain: Callable[[str], str] = why,
    ) -> None:
        """Start ``argv`` with both of its output streams going to ``log_file``.

        Args:
            argv: the command.
            what: name for messages, e.g. ``server of smollm2-135m fp8``.
            log_file: created, or appended to.
            env: added to this process's environment, whose ``PATH`` starts with the folder of a virtual environment's
                interpreter.
            cwd: working directory of the child.
            explain: returns why it ended, given its log.

        Raises:
            StoreError: the log or the registry cannot be written.
        """
        self.what = what
        self._explain = explain
        self.log_file = log_file
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            _registry().mkdir(parents=True, exist_ok=True)
            self._log = log_file.open("ab")
        except OSError as error:
            raise StoreError(f"cannot write {error.filename}: {error.strerror}") from error
        self._log_begin = log_file.stat().st_size
        # Lets the child import quantbench where it runs from a checkout without being installed.
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        self._popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **search_path(argv[0]),
                **loopback_variables(os.environ),
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                **env,
            },
            cwd=cwd,
            start_new_session=True,
        )
        owner = psutil.Process()
        self._process = psutil.Process(self._popen.pid)
        self._create_time = self._process.create_time()
        self._entry = _registry() / f"{self._popen.pid}.json"
        entry = {
            "pid": self._popen.pid,
            "create_time": self._create_time,
            "owner_pid": owner.pid,
            "owner_create_time": owner.create_time(),
            "what": what,
            "host": _host(),
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

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or after ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)

    @property
    def pid(self) -> int:
        """Process id, which is also its session id."""
        return self._popen.pid

    def how_it_ended(self) -> str:
        """Return how the child ended, why according to its log, and what to change."""
        code = self._popen.poll()
        ended = f"ended with code {code}"
        if code is not None and code < 0:
            ended = f"was killed by {signal.Signals(-code).name}"
            ended += " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"{ended}: {self._explain(self.log_text())} (log: {self.log_file})"

    def family(self) -> list[psutil.Process]:
        """Return the child and its living descendants; empty once it has ended."""
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory_bytes(self) -> int | None:
        """Return the resident memory of the child and its descendants; None once it is gone."""
        try:
            return sum(process.memory_info().rss for process in self.family()) or None
        except psutil.NoSuchProcess:
            return None

    def cpu_seconds(self) -> float:
        """Return the CPU time that the child and its descendants have used, including ended ones."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # user and system, of itself and of children that it waited for
        return total

    def bytes_read(self) -> int:
        """Return the bytes that the child and its descendants have read from disks."""
        total = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.io_counters().read_bytes
        return total

    def listens_on(self, port: int | None) -> bool:
        """Return whether this child or one of its descendants listens on a TCP port."""
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for process in self.family()
            for connection in _connections(process)
        )

    def log_text(self) -> str:
        """Return what the child has printed since it was started, at most the last megabyte."""
        with self.log_file.open("rb") as stream:
            stream.seek(max(self._log_begin, self.log_file.stat().st_size - LOG_BYTES))
            return stream.read().decode(errors="replace")

    def log_bytes(self) -> int:
        """Return the size of its log."""
        return self.log_file.stat().st_size

    def log_tail(self, lines: int = 4) -> str:
        """Return the lines of the log that say why it ended, joined by `` | ``: exceptions, or else the last lines."""
        return last_words(self.log_text(), lines)

    def last_lines(self, lines: int) -> str:
        """Return the log's last lines, joined by `` | ``, which show what it is doing."""
        return " | ".join(lines_of(self.log_text())[-lines:])

    def left_behind(self) -> list[int]:
        """Return the pids of processes that the stopped child has left running."""
        return [process.pid for process in session_members(self.pid, self._create_time)]

    def kill(self) -> None:
        """Kill all of the session at once, for a process that hangs and ignores SIGTERM."""
        _signal(signal.SIGKILL, session_members(self.pid, self._create_time))

    def stop(self) -> None:
        """End all of the session: SIGTERM, then SIGKILL. Has no effect if it has already ended."""
        _end_session(self.pid, self._create_time)
        self._popen.wait()
        if self._popen.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()
        self._log.close()
        self._entry.unlink(missing_ok=True)


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections(kind="tcp"))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


class Pulse:
    """Time since a child's last activity: CPU time, a read from a disk, or a new line in its log."""

    CPU_S = 0.1
    """CPU time that counts as activity; a process that only waits uses less."""

    def __init__(self, child: Child) -> None:
        """Start now."""
        self._child = child
        self._seen = self._look()
        self._at = time.monotonic()

    def _look(self) -> tuple[float, int, int]:
        return self._child.cpu_seconds(), self._child.bytes_read(), self._child.log_bytes()

    def still_s(self) -> float:
        """Return the seconds since the last activity; call about once a second."""
        now, activity = time.monotonic(), self._look()
        if abs(activity[0] - self._seen[0]) > self.CPU_S or activity[1:] != self._seen[1:]:
            self._seen, self._at = activity, now
        return now - self._at
