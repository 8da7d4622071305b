"""A server that streams tokens at set times and records when it wrote each event.

It implements SGLang's native ``/generate`` and OpenAI's ``/v1/completions`` and ``/v1/chat/completions`` over real
sockets, in a separate process. ``with running() as server`` starts one. ``server.load(...)`` sets the scripts of the
next requests, in order of arrival; requests without a script follow the loaded pace, or get all tokens at once.
``server.truth()`` returns when each event of each request was written, by CLOCK_MONOTONIC, which all processes share.
To run it alone: ``python -m testkit.streamer``.

Clients are compared with its time stamps, so it has little overhead: raw sockets on uvloop, events assembled from
prepared pieces, and a time stamp just before the system call that sends them.
"""

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import uvloop
from httptools import HttpRequestParser

from testkit.stream_events import Answer, answer_for

ROOT = Path(__file__).resolve().parent.parent
HANG_S = 60.0
LATER_S = 0.1
"""With a pace, requests are time stamped on arrival and parsed this much later: parsing one would delay the time stamps
of others that arrive with it, and the delay would be attributed to the client."""
MODEL = "fake"

Ending = Literal["done", "unfinished", "silent", "error", "abort", "cut", "stall", "die"]
"""What follows the last step: a normal end; no finish reason; no [DONE]; an error event; an abort; a closed connection;
nothing; the death of the server."""


@dataclass
class Script:
    """What the server does with one request."""

    steps: list[tuple[float, int]]
    """(delay in seconds before the event, tokens in the event)"""
    ending: Ending = "done"
    status: int = 200
    role_first: bool = False
    """Start with an event without tokens."""
    counts: bool = True
    """Report ``completion_tokens``; without it clients can only count ids or events."""
    continuous: bool = True
    """Support ``continuous_usage_stats``."""
    halves: bool = False
    """Send each event in two pieces."""
    final_empty: bool = False
    """Report the finish reason in a separate event, without new tokens."""
    finish: str = "length"
    prompt_tokens: int | None = None
    """Report this number instead of the actual one."""
    cached_tokens: int | None = 0
    text: str = '"completion_tokens": 9999, '
    """Text of each token. It looks like a count, as generated text may."""


@dataclass
class Pace:
    """Answers of requests without a script: as many tokens as requested, at random times."""

    first_s: tuple[float, float]
    """Shortest and longest time to the first event."""
    gap_s: tuple[float, float]
    tokens: tuple[int, ...] = (1,)
    """Numbers of tokens of an event, sampled uniformly."""
    text: str = " the"
    seed: int = 0
    wanted: int = 0
    prepared: int = 0
    """Number of answers of ``wanted`` tokens to sample in advance: sampling during the run delays others."""

    def script(self, wanted: int, rng: random.Random) -> Script:
        """Return a random script of ``wanted`` tokens; its first event has one token."""
        steps = [(rng.uniform(*self.first_s), 1)]
        remaining = wanted - 1
        while remaining > 0:
            tokens = min(remaining, rng.choice(self.tokens))
            steps.append((rng.uniform(*self.gap_s), tokens))
            remaining -= tokens
        return Script(steps, text=self.text)


@dataclass
class Truth:
    """What actually happened to one request. Times are nanoseconds of CLOCK_MONOTONIC."""

    prompt: list[int] | str
    received_ns: int
    """When its first bytes were read."""
    written: list[tuple[int, int]] = field(default_factory=list)
    """(time just before the event was written, new tokens in it), for events with tokens"""
    path: str = "/generate"


class Server:
    """The remaining scripts and the truth so far."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"version": "fake", "internal_states": [{}]}
        """Answer of ``/server_info``."""
        self.forget([], 0, None)

    def forget(self, scripts: list[Script], busy_flushes: int, pace: Pace | None) -> None:
        self.scripts = deque(scripts)
        self.busy_flushes = busy_flushes
        """Number of flushes to refuse from now on."""
        self.pace = pace
        self.rng = random.Random(pace.seed if pace else 0)
        self.drawn = [pace.script(pace.wanted, self.rng) for _ in range(pace.prepared)] if pace else []
        self.truth: list[Truth] = []
        self.flushes = 0
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []

    def next_script(self, wanted: int) -> Script:
        if self.scripts:
            return self.scripts.popleft()
        if self.pace is None:
            return Script([(0.0, 1)] * wanted)
        ready = self.drawn and wanted == self.pace.wanted
        return self.drawn.pop() if ready else self.pace.script(wanted, self.rng)

    def plain(self, path: str, body: bytes) -> tuple[int, Any]:
        """Return (status, JSON or text) for any request that is not a generation."""
        match path.partition("?")[0]:
            case "/script":
                fields = json.loads(body)
                pace = Pace(**fields["pace"]) if fields["pace"] else None
                self.forget([Script(**script) for script in fields["scripts"]], fields["busy_flushes"], pace)
                return 200, ""
            case "/describe":
                self.info = json.loads(body)
                return 200, ""
            case "/truth":
                truth = [asdict(request) for request in self.truth]
                return 200, {"requests": truth, "flushes": self.flushes, "headers": self.headers, "bodies": self.bodies}
            case "/flush_cache" if self.busy_flushes:
                self.busy_flushes -= 1
                return 400, "requests are running"
            case "/flush_cache":
                self.flushes += 1
                return 200, "Cache flushed.\n"
            case "/health" | "/health_generate":
                return 200, ""
            case "/v1/models":
                return 200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "nobody"}]}
            case "/model_info" | "/get_model_info":
                return 200, {"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True}
            case "/server_info" | "/get_server_info":
                return 200, self.info
        return 404, {"error": {"message": f"no {path} here"}}


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.parser: Any = HttpRequestParser(self)
        self.task: asyncio.Task[None] | None = None
        self.begin()

    def begin(self) -> None:
        self.received_ns = 0
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.path = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass
        self.fd: int = transport.get_extra_info("socket").fileno()

    def connection_lost(self, error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.received_ns = self.received_ns or time.monotonic_ns()
        pace = self.server.pace
        if pace is not None and pace.first_s[0] > LATER_S:
            asyncio.get_running_loop().call_later(LATER_S, self.parser.feed_data, data)
        else:
            self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path = url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().title()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        path, headers, body, received_ns = self.path, self.headers, b"".join(self.body), self.received_ns
        self.begin()
        self.close = headers.get("Connection", "").lower() == "close"
        if path not in ("/generate", "/v1/completions", "/v1/chat/completions"):
            self.reply(*self.server.plain(path, body))
            return
        fields = json.loads(body)
        answer = answer_for(path, fields)
        truth = Truth(answer.prompt, received_ns, path=path)
        self.server.truth.append(truth)
        self.server.headers.append(headers)
        self.server.bodies.append({key: value for key, value in fields.items() if key not in ("prompt", "input_ids")})
        script = self.server.next_script(answer.wanted)
        if script.status != 200:
            self.reply(script.status, {"error": {"message": "scripted refusal"}})
            return
        self.task = asyncio.create_task(self.generate(script, answer, truth))

    def send(self, data: bytes) -> None:
        """Send immediately; only data that does not fit in the socket's buffer is left to the transport."""
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() == 0:
            with contextlib.suppress(BlockingIOError):
                try:
                    data = data[os.write(self.fd, data) :]
                except ConnectionError:  # the client is gone
                    self.transport.abort()
                    return
        if data:
            self.transport.write(data)

    def reply(self, status: int, content: Any) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        kind = "text/plain" if isinstance(content, str) else "application/json"
        self.send(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self.finish()

    def finish(self) -> None:
        if self.close:
            self.transport.close()

    async def generate(self, script: Script, answer: Answer, truth: Truth) -> None:
        answer.begin(script)
        if answer.streamed:
            await self.stream(script, answer, truth)
            return
        total = 0
        for delay_s, tokens in script.steps:
            await asyncio.sleep(delay_s)
            total += tokens
        truth.written.append((time.monotonic_ns(), total))
        self.reply(200, answer.whole(total))

    async def stream(self, script: Script, answer: Answer, truth: Truth) -> None:
        self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if script.role_first:
            await self.event(answer.role(), script)
        total = 0
        last = len(script.steps) if script.ending == "done" and not script.final_empty else 0
        for number, (delay_s, tokens) in enumerate(script.steps, start=1):
            passed_s = 0.0 if number > 1 else (time.monotonic_ns() - truth.received_ns) / 1e9
            await asyncio.sleep(max(delay_s - passed_s, 0))
            total += tokens
            event = answer.event(tokens, total, script.finish if number == last else None)
            truth.written.append((time.monotonic_ns(), tokens))
            await self.event(event, script)
        match script.ending:
            case "error":
                await self.event(b'{"error": {"message": "scripted error", "code": 500}}', script)
            case "abort":
                await self.event(answer.event(0, total, "abort"), script)
            case "stall":
                await asyncio.sleep(HANG_S)
            case "cut":
                self.transport.close()
                return
            case "die":
                os._exit(1)
        if script.ending == "done" and script.final_empty:
            await self.event(answer.event(0, total, script.finish), script)
        if script.ending not in ("error", "unfinished") and (usage := answer.usage_event(total)):
            await self.event(usage, script)
        done = b"" if script.ending == "silent" else b"e\r\ndata: [DONE]\n\n\r\n"
        self.send(done + b"0\r\n\r\n")
        self.finish()

    async def event(self, event: bytes, script: Script) -> None:
        data = b"data: " + event + b"\n\n"
        if script.halves:
            half = len(data) // 2
            self.send(b"%x\r\n%b\r\n" % (half, data[:half]))
            await asyncio.sleep(0.005)
            data = data[half:]
        self.send(b"%x\r\n%b\r\n" % (len(data), data))


def main() -> None:
    """Serve on a free port, print it, and end when stdin closes."""

    async def serve() -> None:
        state = Server()
        server = await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=1024)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    uvloop.run(serve())


class Running:
    """The test's side of a running streamer."""

    def __init__(self, process: "subprocess.Popen[str]", base_url: str) -> None:
        self.process = process
        self.base_url = base_url

    def _ask(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.base_url}{path}", data, timeout=30) as reply:
            text: bytes = reply.read()
            return text

    def load(self, *scripts: Script, busy_flushes: int = 0, pace: Pace | None = None) -> None:
        """Reset the server and set the scripts of the next requests."""
        body = {"scripts": [asdict(script) for script in scripts], "busy_flushes": busy_flushes}
        self._ask("/script", {**body, "pace": asdict(pace) if pace else None})

    def describe(self, info: dict[str, Any]) -> None:
        """Answer ``/server_info`` with ``info`` from now on."""
        self._ask("/describe", info)

    def seen(self) -> dict[str, Any]:
        """Return what happened since the last load."""
        events: dict[str, Any] = json.loads(self._ask("/truth"))
        return events

    def truth(self) -> list[Truth]:
        """Return what happened to each request, in order of arrival."""
        requests = self.seen()["requests"]
        return [Truth(**{**request, "written": [tuple(w) for w in request["written"]]}) for request in requests]

    def cpu_s(self) -> float:
        """Return the CPU time that the server has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running() -> Iterator[Running]:
    """Run a streamer for the duration of a ``with`` block."""
    argv = [sys.executable, "-m", "testkit.streamer"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(process, f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


if __name__ == "__main__":
    main()
