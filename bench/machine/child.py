"""Start child processes that end with their run, however it ends, and end those that a killed run left behind.

Each child leads its own session and holds the read end of a pipe whose write end is ours: our own children exit when
it closes, which the kernel does even on ``kill -9``. Children of other programs that do not listen to it are written
down in the cache folder, and the next start ends those whose owner is gone.
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
"""How long a session may take to end after SIGTERM before it is killed."""
POLL_S = 0.25
"""How often a child's result or a starting server is looked at. Chosen: short next to what it takes."""
END_POLL_S = 0.05
"""How often a session that has to end is looked at. Chosen: nobody notices the delay."""
LOG_BYTES = 2**20
"""How much of a log's end is looked through for what went wrong."""
CLOCK_SLACK_S = 2.5
"""How far two readings of one start time may differ: they count from the boot, whose time moves as the clock is set.
Chosen: more than a clock is set by, less than it takes for a process id to come again."""


def _registry() -> Path:
    return cache_dir() / "processes"


def _host() -> str:
    """Return what tells this machine, since it was started, from others that share a home."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def _is_same(pid: int, create_time: float) -> bool:
    """Tell whether process ``pid`` still is the one that began at ``create_time`` (pids are reused)."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < CLOCK_SLACK_S and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def session_members(leader: int, create_time: float) -> list[psutil.Process]:
    """Return the living processes of the session that ``leader`` began at ``create_time``, also once it has ended.

    What a server starts stays in its session, even when the process that started it has gone. A session's number is
    free for others only once the session is empty: a leader that began at another time leads another session.
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
    """End all processes of a session: SIGTERM to its leader, who knows best how to end the others.

    What is left when the leader has gone gets the SIGTERM too, and SIGKILL after a while.
    """
    members = session_members(leader, create_time)
    _tell(signal.SIGTERM, [process for process in members if process.pid == leader])
    _tell(signal.SIGTERM, session_members(leader, create_time))
    _tell(signal.SIGKILL, session_members(leader, create_time))


def _tell(number: signal.Signals, processes: Sequence[psutil.Process]) -> None:
    """Send a signal to processes and wait a while for their end."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # one that was stopped hears nothing else
    end = time.monotonic() + TERM_S
    # Not psutil.wait_procs: of a child of ours it would take the exit code away.
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
                continue  # a home that several machines share
            owned = _is_same(entry["owner_pid"], entry["owner_create_time"])
            left = [] if owned else session_members(entry["pid"], entry["create_time"])
        except (ValueError, KeyError, OSError):
            owned, left, entry = False, [], {}
        if owned:
            continue
        if left:
            _end_session(entry["pid"], entry["create_time"])
            ended.append(f"ended {entry['what']} (pid {entry['pid']}), left behind by a run that was killed")
        file.unlink(missing_ok=True)
    return ended


class Child:
    """A running child process and its whole session. Use as a context manager."""

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
        """Start ``argv`` with both outputs going to ``log_file``.

        Args:
            argv: the command.
            what: a name for people, e.g. ``server of smollm2-135m fp8``.
            log_file: created, or continued.
            env: added to this process's environment, in which the folder of a virtual environment's interpreter comes
                first on ``PATH``.
            cwd: working directory of the child.
            explain: returns why it ended, from its log.

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
        # The child finds these packages too where they are not installed but run from a checkout.
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
        """Return when it has ended, or after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)

    @property
    def pid(self) -> int:
        """Process id; also that of its session."""
        return self._popen.pid

    def how_it_ended(self) -> str:
        """Return in words how the child ended, why as far as its log tells, and what to change."""
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
        """Return the CPU time that the child and its descendants have used, those that have ended included."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # user and system, of itself and of children it has waited for
        return total

    def bytes_read(self) -> int:
        """Return the bytes that the child and its descendants have had read from disks."""
        total = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.io_counters().read_bytes
        return total

    def listens_on(self, port: int | None) -> bool:
        """Tell whether it is this child, or a descendant, that listens on a TCP port."""
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
        """Return the lines of the log that tell why it ended, joined by `` | ``: exceptions, else the last lines."""
        return last_words(self.log_text(), lines)

    def last_lines(self, lines: int) -> str:
        """Return the log's last lines, joined by `` | ``: where it is while it works."""
        return " | ".join(lines_of(self.log_text())[-lines:])

    def left_behind(self) -> list[int]:
        """Return the pids of processes that the child, which was stopped, has left running."""
        return [process.pid for process in session_members(self.pid, self._create_time)]

    def kill(self) -> None:
        """End the whole session at once: one that hangs hears no SIGTERM."""
        _tell(signal.SIGKILL, session_members(self.pid, self._create_time))

    def stop(self) -> None:
        """End the whole session: SIGTERM, then SIGKILL. Harmless when it has ended already."""
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
    """When a child last showed a sign of life: CPU time, something read from a disk, or a new line in its log."""

    CPU_S = 0.1
    """Less than this since the last sign is what a process takes that only waits."""

    def __init__(self, child: Child) -> None:
        """Begin now."""
        self._child = child
        self._seen = self._look()
        self._at = time.monotonic()

    def _look(self) -> tuple[float, int, int]:
        return self._child.cpu_seconds(), self._child.bytes_read(), self._child.log_bytes()

    def still_s(self) -> float:
        """Return for how many seconds there has been no sign of life; ask about once a second."""
        now, seen = time.monotonic(), self._look()
        if abs(seen[0] - self._seen[0]) > self.CPU_S or seen[1:] != self._seen[1:]:
            self._seen, self._at = seen, now
        return now - self._at
