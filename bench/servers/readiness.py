"""Wait until a started process listens on its port and has generated a token."""

import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.errors import EngineError
from bench.machine.child import POLL_S, Child, Pulse
from bench.machine.diagnose import Diagnosis
from bench.machine.direct import open_direct
from bench.speed.protocols import dialect

START_HUNG_S = 60.0
"""A server that shows no activity for this long while it starts hangs."""

ENDING_S = 5.0
"""Longest time for a process that has stopped listening to end."""


class PortTakenError(EngineError):
    """Another process has the port; another port may be free."""


def free_port() -> int:
    """Return a port on 127.0.0.1 that was free when checked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:200]


@dataclass(frozen=True)
class Door:
    """A server's address and API key."""

    base_url: str
    api_key: str | None

    @property
    def port(self) -> int | None:
        """TCP port of the address."""
        return urlsplit(self.base_url).port

    def ask(self, path: str, timeout_s: float = 30.0, body: Any = None) -> tuple[int, bytes]:
        """Return (status, body) of a GET, or of a POST of ``body`` as JSON; status 0 if no answer arrives in time.

        A redirect is not followed, because the key is for this server only; the returned body names its target.
        """
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            request = urllib.request.Request(f"{self.base_url}{path}", data, headers)
            with open_direct(request, timeout_s) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                return error.code, f"redirects to {_printable(error.headers.get('Location', 'nowhere'))}".encode()
            return error.code, error.read()
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return 0, b""

    def generate(self, protocol: str, model: str, timeout_s: float) -> tuple[int, bytes]:
        """Have the server generate one token; return (status, body).

        Args:
            protocol: a module of :mod:`bench.speed.protocols`.
            model: name that requests must give the model; empty for the first that the server lists.
            timeout_s: longest time to wait.
        """
        api = dialect(protocol)
        if api.HEALTH_PATH is not None:
            return self.ask(api.HEALTH_PATH, timeout_s)
        if not model:
            status, body = self.ask("/v1/models", timeout_s)
            if status != 200:
                return status, body
            try:
                model = json.loads(body)["data"][0]["id"]
            except (ValueError, LookupError, TypeError):
                return 0, b"/v1/models names no model"
        return self.ask(api.PATH, timeout_s, {"model": model, "prompt": "Hi", "max_tokens": 1})


class _Answer:
    """The answer to a question asked in a thread, because the server may die or hang before it answers."""

    def __init__(self, question: Callable[[], tuple[int, bytes]]) -> None:
        self.value: tuple[int, bytes] | None = None
        self._question = question
        threading.Thread(target=self._ask, name="ask", daemon=True).start()

    def _ask(self) -> None:
        self.value = self._question()


class Start:
    """A process that has not answered yet."""

    def __init__(
        self,
        child: Child,
        door: Door,
        *,
        generate: Callable[[float], tuple[int, bytes]],
        diagnosis: Callable[[str], Diagnosis | None],
        timeout_s: float,
        patient: bool,
    ) -> None:
        """Watch ``child``.

        Args:
            child: the started process.
            door: the address where it will answer.
            generate: has it generate a token within the given number of seconds; returns (status, body).
            diagnosis: returns what went wrong according to its log.
            timeout_s: longest time to its first answer.
            patient: whether inactivity is normal, because it waits for other nodes.
        """
        self._child = child
        self._door = door
        self._generate = generate
        self._diagnosis = diagnosis
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._pulse = Pulse(child)
        self._patient = patient

    def wait(self, on_wait: Callable[[], None]) -> None:
        """Return once the server has generated a token.

        Raises:
            PortTakenError: another process has the port.
            EngineError: it died, hangs, cannot generate, or missed the deadline; includes what its log says.
        """
        while True:
            status, _ = self._door.ask("/health", 5.0)
            self._check(answered=status != 0)
            if status == 200:
                break
            on_wait()
            time.sleep(POLL_S)
        answer = _Answer(lambda: self._generate(max(1.0, self._deadline - time.monotonic())))
        while answer.value is None:
            self._check(answered=True)
            on_wait()
            time.sleep(POLL_S)
        status, body = answer.value
        self._check_owner()
        if status != 200:
            self._check(answered=True)
            raise EngineError(
                f"{self._child.what} is up but cannot generate (HTTP {status}): {body[:200].decode(errors='replace')} "
                f"(log: {self._child.log_file})"
            )

    def _check_owner(self) -> None:
        """Check that the process itself answers."""
        if not self._child.listens_on(self._door.port):
            self._child.wait(ENDING_S)  # one that is ending does not listen either, and its log says why
        self._check_running()
        if not self._child.listens_on(self._door.port):
            raise PortTakenError(f"another program answers on port {self._door.port}")

    def _check_running(self) -> None:
        child = self._child
        if child.exit_code is not None:
            diagnosis = self._diagnosis(child.log_text())
            kind = PortTakenError if diagnosis and diagnosis.kind == "port taken" else EngineError
            raise kind(f"before it was ready, {child.what} {child.how_it_ended()}")

    def _check(self, *, answered: bool) -> None:
        child = self._child
        self._check_running()
        if answered:
            self._check_owner()
        still_s = self._pulse.still_s()
        if not self._patient and still_s > START_HUNG_S:
            raise EngineError(
                f"{child.what} hangs while it starts: no activity for {still_s:.0f} s: {child.last_lines(2)} "
                f"(log: {child.log_file})"
            )
        if time.monotonic() > self._deadline:
            raise EngineError(
                f"{child.what} was not ready in time ({self._timeout_s:g} s): {child.log_tail()} "
                f"(log: {child.log_file}); allow more time with engine.startup_timeout_s=…"
            )
