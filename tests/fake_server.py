"""A scripted server in a process of its own: it knows exactly what it sent and when, and can be told to misbehave.

Each ``POST /generate`` takes the next script of the list: pauses in seconds, each followed by an event with so many
tokens, and at most one fault. ``GET /truth`` tells when each request came in and when each event was written, on the
monotonic clock that processes of one machine share.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from subprocess import PIPE, Popen
from typing import Any
from urllib.request import urlopen

from aiohttp import web


@dataclass(frozen=True)
class Script:
    """What one request gets."""

    events: list[tuple[float, int]] = field(default_factory=list)
    """(pause before it in seconds, tokens in it)."""
    role_first: bool = False
    """Begin with an event that carries no token."""
    fault: str = ""
    """``status:429``, ``error_after:K``, ``cut_after:K``, ``stall_after:K``, ``die_after:K`` (K events)."""
    prompt_tokens: int | None = None
    """A wrong count to tell; None tells the right one."""
    cached_tokens: int = 0
    finish: str | None = "length"
    cumulative: bool = True
    """Whether meta_info counts tokens; else only output_ids do."""


async def _generate(request: web.Request) -> web.StreamResponse:
    scripts: list[Script] = request.app["scripts"]
    arrived = time.monotonic_ns()
    body = await request.json()
    script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
    kind, _, number = script.fault.partition(":")
    if kind == "status":
        return web.json_response({"error": {"message": "busy"}}, status=int(number))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    meta: dict[str, Any] = {
        "prompt_tokens": len(body["input_ids"]) if script.prompt_tokens is None else script.prompt_tokens,
        "cached_tokens": script.cached_tokens,
        "finish_reason": None,
    }
    written: list[int] = []

    async def send(event: dict[str, Any]) -> None:
        written.append(time.monotonic_ns())
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    if script.role_first:
        await response.write(b'data: {"text": "", "output_ids": [], "meta_info": {"completion_tokens": 0}}\n\n')
    count = 0
    due = time.monotonic()
    for index, (pause, tokens) in enumerate(script.events):
        due += pause
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if kind.endswith("_after") and index == int(number):
            if kind == "error_after":
                await response.write(b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n')
            elif kind == "stall_after":
                await asyncio.sleep(60)
            elif kind == "die_after":
                os._exit(1)
            if request.transport is not None:
                request.transport.close()
            return response
        count += tokens
        last = index == len(script.events) - 1
        told = {**meta, "finish_reason": {"type": script.finish} if last and script.finish else None}
        if script.cumulative:
            told["completion_tokens"] = count
        await send({"text": "x" * count, "output_ids": [5] * count, "meta_info": told})
    request.app["truth"].append({"arrived": arrived, "written": written})
    await response.write(b"data: [DONE]\n\n")
    return response


async def _truth(request: web.Request) -> web.Response:
    return web.json_response(request.app["truth"])


async def _ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def main() -> None:
    """Serve the scripts read from standard input; print the port; end with standard input."""
    app = web.Application()
    app["scripts"] = [Script(**script) for script in json.loads(sys.stdin.readline())]
    app["truth"] = []
    app.router.add_post("/generate", _generate)
    app.router.add_get("/truth", _truth)
    for path in ("/health", "/server_info", "/health_generate"):
        app.router.add_get(path, _ok)
    app.router.add_post("/flush_cache", _ok)

    async def run() -> None:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(run())


@contextmanager
def fake_server(*scripts: Script) -> Iterator[str]:
    """Serve ``scripts`` in order, the last one again and again, and yield the base url."""
    process = Popen([sys.executable, "-m", "tests.fake_server"], stdin=PIPE, stdout=PIPE, text=True)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(json.dumps([asdict(script) for script in scripts]) + "\n")
        process.stdin.flush()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def truth(base_url: str) -> list[dict[str, Any]]:
    """Return what the server really did, in order of completion."""
    with urlopen(f"{base_url}/truth") as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


if __name__ == "__main__":
    main()
