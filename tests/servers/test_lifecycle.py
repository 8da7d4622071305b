"""The life of servers, with every fault: real processes and real HTTP that fail on purpose."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

import bench.engines
from bench.engines import engine as engine_named
from bench.errors import EngineError
from bench.machine.child import Child, Pulse, end_orphans
from bench.servers import lifecycle, readiness
from bench.servers.lifecycle import RunningEngine, free_port, serve
from quantize.checkpoint import Checkpoint
from testkit.records import manifest
from tests.support.paths import ROOT
from tests.support.saboteur import Fault, Plan


@pytest.fixture(autouse=True)
def own_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Register the engines of the tests, and use a separate list of children."""
    monkeypatch.setattr(
        bench.engines, "__path__", [*bench.engines.__path__, str(ROOT / "tests" / "support" / "engines")]
    )
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))


class Place:
    """A folder to serve in, with the recorded messages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def serve(self, plan: Plan, *, timeout_s: float = 60, **more: Any) -> AbstractContextManager[RunningEngine]:
        config = {"script": str(plan.write(self.folder / "plan.json")), "startup_timeout_s": timeout_s}
        rest = dict.fromkeys(("request_timeout_s", "first_token_timeout_s", "stall_timeout_s"), 30.0)
        return serve(
            engine_named("scripted", config | rest),
            Checkpoint(path=self.folder, manifest=MANIFEST, reused=True, reason=""),
            context_length=100,
            what="server of a test",
            log_file=self.folder / "server.log",
            on_wait=lambda: None,
            on_note=self.notes.append,
            **more,
        )


MANIFEST = manifest("bf16")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(place: Place, plan: Plan, **more: Any) -> str:
    with pytest.raises(EngineError) as caught, place.serve(plan, **more):
        pass
    assert "\n" not in str(caught.value)
    assert not list((place.folder / "cache" / "processes").glob("*.json"))
    return str(caught.value)


def living(session: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _session_of(process.pid) == session and _lives(process)]


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_ready_server_has_generated_a_token_and_is_our_own(place: Place) -> None:
    with place.serve(Plan()) as engine:
        assert engine.alive() is None
        assert engine.startup_s > 0
        assert engine.child is not None
        assert engine.child.listens_on(int(engine.base_url.rsplit(":", 1)[1]))
        assert not engine.child.listens_on(free_port())
    assert engine.ended
    assert engine.after.left_behind == ()
    assert place.notes == []


def test_workers_that_ignore_signals_are_ended_with_their_server(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    with place.serve(Plan(helper="deaf")) as engine:
        assert engine.child is not None
        session = engine.child.pid
        assert len(living(session)) == 2
    assert living(session) == []
    assert engine.after.left_behind == ()


def test_workers_of_a_server_that_was_killed_are_ended_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    with place.serve(Plan(helper="deaf")) as engine:
        assert engine.child is not None
        session = engine.child.pid
        os.kill(session, signal.SIGKILL)
        until(lambda: engine.ended)
        assert living(session)
        assert "was killed by SIGKILL" in (engine.alive() or "")
    assert living(session) == []


def until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_a_server_that_dies_at_startup_is_reported_with_cause_and_advice(place: Place) -> None:
    log = "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    message = refused(place, Plan(at_start="die", says=log))
    assert "ended with code 1: out of memory: torch.OutOfMemoryError" in message
    assert "nvidia-smi" in message
    assert "server.log" in message


def test_the_log_of_an_earlier_start_is_not_diagnosed(place: Place) -> None:
    (place.folder / "server.log").write_text("RuntimeError: CUDA out of memory\n")
    message = refused(place, Plan(at_start="die", says="no such luck\n"))
    assert "no such luck" in message
    assert "memory" not in message


def test_a_port_in_use_is_replaced_and_reported(place: Place) -> None:
    log = "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use\n"
    with place.serve(Plan(at_start="die", says=log, starts=2)) as engine:
        assert engine.alive() is None
    assert len(place.notes) == 2
    assert all("was taken" in note for note in place.notes)


def test_the_start_fails_after_three_ports_in_use(place: Place) -> None:
    log = "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use\n"
    assert "port taken" in refused(place, Plan(at_start="die", says=log, starts=9))
    assert (place.folder / "plan.starts").read_text() == "xxx"


class Foreign(BaseHTTPRequestHandler):
    """Answers every request with 200, as a server of another run does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def foreign() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_an_external_server_on_the_port_is_never_mistaken_for_our_own(
    place: Place, foreign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([foreign, free_port()])
    monkeypatch.setattr(lifecycle, "free_port", lambda: next(ports))
    with place.serve(Plan()) as engine:
        assert not engine.base_url.endswith(f":{foreign}")
        assert engine.info.version == "fake"
    assert len(place.notes) == 1
    assert f"port {foreign} was taken" in place.notes[0]


def started(place: Place, code: str, *arguments: str) -> Child:
    command = [sys.executable, "-c", code, *arguments]
    return Child(
        command, what="server", log_file=place.folder / "log", env={}, cwd=place.folder, explain=lambda log: ""
    )


def wait_for(child: Child, port: int, generate: Callable[[float], tuple[int, bytes]], timeout_s: float = 60) -> None:
    door = readiness.Door(f"http://127.0.0.1:{port}", None)
    start = readiness.Start(
        child, door, generate=generate, diagnosis=lambda log: None, timeout_s=timeout_s, patient=False
    )
    try:
        start.wait(lambda: None)
    finally:
        child.stop()


def test_an_external_server_is_not_mistaken_for_one_that_is_ending(place: Place, foreign: int) -> None:
    child = started(place, "import time; time.sleep(1); raise SystemExit(3)")
    with pytest.raises(EngineError, match="before it was ready, server ended with code 3"):
        wait_for(child, foreign, lambda limit_s: (200, b"{}"))


HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_ends_after_its_first_answer_is_not_ready(place: Place) -> None:
    port = free_port()
    child = started(place, HEALTHY, str(port))

    def generate(limit_s: float) -> tuple[int, bytes]:
        child.kill()
        child.wait(5)
        return 200, b"{}"

    with pytest.raises(EngineError, match="was killed by SIGKILL"):
        wait_for(child, port, generate)


@pytest.mark.parametrize("how", ["hang", "mute", "deaf"])
def test_a_server_that_hangs_at_startup_is_distinguished_from_a_slow_one(
    place: Place, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "START_HUNG_S", 3.0)
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    message = refused(place, Plan(at_start=how, says="loading weights\n"))
    assert "hangs while it starts: no activity for" in message


def test_a_startup_timeout_advises_how_to_allow_more_time(place: Place) -> None:
    message = refused(place, Plan(at_start="deaf", says="loading weights\n"), timeout_s=2)
    assert "was not ready in time (2 s): loading weights" in message
    assert "engine.startup_timeout_s=" in message


def test_a_server_without_activity_is_ended_as_hanging(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "HUNG_S", 2.0)
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    with place.serve(Plan()) as engine:
        assert engine.child is not None
        os.kill(engine.child.pid, signal.SIGSTOP)
        until(lambda: engine.pulse is not None and engine.pulse.still_s() > 2)
        assert engine.hung(0.0) is None  # tokens come
        assert not engine.ended
        reason = engine.alive(9.0)
        assert "hangs: no token for 9 s and no activity" in (reason or "")
        assert engine.ended
        assert engine.alive(0.0) == engine.gone() == reason


def test_a_server_whose_worker_computes_does_not_hang(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "HUNG_S", 2.0)
    with place.serve(Plan(helper="busy")) as engine:
        for _ in range(8):
            assert engine.alive(9.0) is None
            time.sleep(0.4)


def test_a_busy_accelerator_counts_as_activity(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "HUNG_S", 1.0)
    monkeypatch.setattr("bench.machine.child.TERM_S", 1.0)
    with place.serve(Plan(), device_busy=lambda: True) as engine:
        assert engine.child is not None
        os.kill(engine.child.pid, signal.SIGSTOP)
        until(lambda: engine.pulse is not None and engine.pulse.still_s() > 1.5)
        assert engine.hung(9.0) is None


def test_a_computing_grandchild_counts_as_activity(tmp_path: Path) -> None:
    works = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with Child([sys.executable, "-c", works], what="x", log_file=tmp_path / "log", env={}, cwd=tmp_path) as child:
        until(lambda: len(child.family()) == 2)
        pulse = Pulse(child)
        time.sleep(2)
        assert pulse.still_s() < 1


def test_released_memory_is_recorded(place: Place) -> None:
    readings = iter([[10, 0], [10**10, 0], [10**10, 0], [11, 0]])
    with place.serve(Plan(), device_memory=lambda: next(readings)) as engine:
        assert engine.after.memory_returned is None
    assert engine.after.memory_returned is True
    assert place.notes == []


def test_unreleased_memory_is_recorded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "RETURN_S", 0.5)
    readings = iter([[0, 0]])
    with place.serve(Plan(), device_memory=lambda: next(readings, [0, 3 * 10**9])) as engine:
        pass
    assert engine.after.memory_returned is False
    assert "3.0 GB on device 1" in place.notes[0]


def test_unknown_memory_is_not_reported(place: Place) -> None:
    with place.serve(Plan(), device_memory=lambda: None) as engine:
        pass
    assert engine.after.memory_returned is None


def test_the_key_is_in_no_command_line(place: Place) -> None:
    with place.serve(Plan()) as engine:
        assert engine.api_key
        assert engine.child is not None
        assert all(engine.api_key not in word for member in engine.child.family() for word in member.cmdline())


def test_servers_left_by_a_killed_run_are_ended_with_their_workers(tmp_path: Path) -> None:
    plan = Plan(helper="deaf").write(tmp_path / "plan.json")
    argv = [sys.executable, "-m", "tests.support.saboteur", str(free_port()), str(plan)]
    owner = (
        "import time; from pathlib import Path; from bench.machine.child import Child\n"
        f"child = Child({argv}, what='a server', log_file=Path('{tmp_path}/log'), env={{}}, cwd=Path('{ROOT}'))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        session = int(process.stdout.readline())
        until(lambda: len(living(session)) == 2)
        process.kill()
    until(lambda: len(living(session)) == 1)  # the server received the signal, its worker ignored it
    (entry,) = (tmp_path / "cache" / "processes").glob("*.json")
    assert json.loads(entry.read_text())["pid"] == session
    (message,) = end_orphans()
    assert "ended a server" in message
    assert living(session) == []


def test_a_fault_leaves_the_plan_as_it_was_written(tmp_path: Path) -> None:
    plan = Plan(faults={"6": Fault(kill=9, after_s=0.5)}, at_start="die")
    assert Plan.read(plan.write(tmp_path / "plan.json")) == plan
