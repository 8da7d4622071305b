"""A scripted server whose truth is known: it does what it is told, and says when it really did it.

It speaks the part of SGLang's native API that the speed client uses, over real sockets and in a process of its own.
``with running() as server`` starts one; ``server.load(...)`` gives the scripts for the next requests, first come,
first served; requests without one get every token at once. ``server.truth()`` tells when each event of each request
was really written, by CLOCK_MONOTONIC, which all processes share. Run alone: ``python -m tests.fake_server``.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
HANG_S = 60.0

Ending = Literal["done", "unfinished", "silent", "error", "abort", "cut", "stall", "die"]
"""What follows the last step: a proper end; no finish reason; no [DONE]; an error event; an abort; a closed
connection; nothing at all; the death of the server."""


@dataclass
class Script:
    """What the server does with one request."""

    steps: list[tuple[float, int]]
    """(delay in seconds before the event, tokens in the event)"""
    ending: Ending = "done"
    status: int = 200
    role_first: bool = False
    """Begin with an event that carries no tokens."""
    counts: bool = True
    """Tell ``completion_tokens``; without it only the ids can be counted."""
    halves: bool = False
    """Send each event in two pieces."""
    final_empty: bool = False
    """Tell the finish reason in an event of its own, without new tokens."""
    finish: str = "length"
    prompt_tokens: int | None = None
    """Claim this many instead of those that came."""
    cached_tokens: int | None = 0


@dataclass
class Truth:
    """What really happened to one request. Times are nanoseconds of CLOCK_MONOTONIC."""

    prompt: list[int]
    received_ns: int
    written: list[tuple[int, int]] = field(default_factory=list)
    """(time just before the event was written, new tokens in it), for events with tokens"""


class FakeServer:
    """The routes, the scripts to come and the truth so far."""

    def __init__(self) -> None:
        self.scripts: deque[Script] = deque()
        self.truth: list[Truth] = []
        self.flushes = 0
        self.busy_flushes = 0
        """How many flushes are refused from now on."""
        self.headers: list[dict[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**28)
        app.add_routes(
            [
                web.post("/generate", self.generate),
                web.post("/flush_cache", self.flush),
                web.get("/health", self.health),
                web.get("/health_generate", self.health),
                web.get("/server_info", self.info),
                web.post("/script", self.script),
                web.get("/truth", self.tell),
            ]
        )
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "fake"})

    async def flush(self, request: web.Request) -> web.Response:
        if self.busy_flushes:
            self.busy_flushes -= 1
            return web.Response(status=400, text="requests are running")
        self.flushes += 1
        return web.Response(text="Cache flushed.\n")

    async def script(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.scripts = deque(Script(**script) for script in asked["scripts"])
        self.busy_flushes = asked["busy_flushes"]
        self.truth, self.headers, self.flushes = [], [], 0
        return web.Response()

    async def tell(self, request: web.Request) -> web.Response:
        truth = [asdict(one) for one in self.truth]
        return web.json_response({"requests": truth, "flushes": self.flushes, "headers": self.headers})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        received_ns = time.monotonic_ns()
        asked = await request.json()
        truth = Truth(asked["input_ids"], received_ns)
        self.truth.append(truth)
        self.headers.append(dict(request.headers))
        wanted = asked["sampling_params"]["max_new_tokens"]
        script = self.scripts.popleft() if self.scripts else Script([(0.0, 1)] * wanted)
        if script.status != 200:
            return web.json_response({"error": {"message": "scripted refusal"}}, status=script.status)
        return await self.stream(request, script, truth)

    async def stream(self, request: web.Request, script: Script, truth: Truth) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if script.role_first:
            await write(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, script)
        total = 0
        for number, (delay_s, tokens) in enumerate(script.steps, start=1):
            await asyncio.sleep(delay_s)
            total += tokens
            ends = number == len(script.steps) and script.ending == "done" and not script.final_empty
            event = answer(script, truth, total, {"type": script.finish, "length": total} if ends else None)
            truth.written.append((time.monotonic_ns(), tokens))
            await write(response, event, script)
        await end(request, response, script, truth, total)
        return response


async def end(request: web.Request, response: web.StreamResponse, script: Script, truth: Truth, total: int) -> None:
    """Carry out the script's ending."""
    match script.ending:
        case "error":
            await write(response, {"error": {"message": "scripted error", "code": 500}}, script)
        case "abort":
            reason = {"type": "abort", "message": "scripted abort", "status_code": 500}
            await write(response, answer(script, truth, total, reason), script)
        case "stall":
            await asyncio.sleep(HANG_S)
        case "cut":
            assert request.transport is not None
            request.transport.close()
            return
        case "die":
            os._exit(1)
    if script.ending == "done" and script.final_empty:
        await write(response, answer(script, truth, total, {"type": script.finish, "length": total}), script)
    if script.ending != "silent":
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()


def answer(script: Script, truth: Truth, total: int, finish: dict[str, Any] | None) -> dict[str, Any]:
    """Return an event as SGLang sends it: the whole answer so far, and its counts."""
    prompt_tokens = len(truth.prompt) if script.prompt_tokens is None else script.prompt_tokens
    meta = {"id": "0", "finish_reason": finish, "prompt_tokens": prompt_tokens, "cached_tokens": script.cached_tokens}
    if script.counts:
        meta["completion_tokens"] = total
    # The text looks like a count, as generated text may.
    return {"text": '"completion_tokens": 9999, ' * total, "output_ids": list(range(total)), "meta_info": meta}


async def write(response: web.StreamResponse, event: dict[str, Any], script: Script) -> None:
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    if script.halves:
        half = len(data) // 2
        await response.write(data[:half])
        await asyncio.sleep(0.005)
        data = data[half:]
    await response.write(data)


def main() -> None:
    """Serve on a free port, print it, and end when stdin closes."""

    async def serve() -> None:
        runner = web.AppRunner(FakeServer().app(), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sys.stdout.write(f"{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(serve())


class Running:
    """The test's side of a running fake server."""

    def __init__(self, process: "subprocess.Popen[str]", base_url: str) -> None:
        self.process = process
        self.base_url = base_url

    def _ask(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.base_url}{path}", data, timeout=10) as reply:
            text: bytes = reply.read()
            return text

    def load(self, *scripts: Script, busy_flushes: int = 0) -> None:
        """Forget everything and do this with the next requests."""
        self._ask("/script", {"scripts": [asdict(script) for script in scripts], "busy_flushes": busy_flushes})

    def seen(self) -> dict[str, Any]:
        """Return what happened since the last load."""
        seen: dict[str, Any] = json.loads(self._ask("/truth"))
        return seen

    def truth(self) -> list[Truth]:
        """Return what happened to each request, in order of arrival."""
        return [Truth(**{**one, "written": [tuple(w) for w in one["written"]]}) for one in self.seen()["requests"]]


@contextmanager
def running() -> Iterator[Running]:
    """Run a fake server for the duration of a ``with`` block."""
    argv = [sys.executable, "-m", "tests.fake_server"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(process, f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


if __name__ == "__main__":
    main()
