"""quantbench's client reading an answer from a server, or from a recording that is replayed over HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.records.record import RequestTrace
from bench.speed.client import Client
from tests.contract.answers import Answer

TIMEOUT_S = 60.0


async def read(base_url: str, ids: list[int], n: int, api_key: str | None = None) -> RequestTrace:
    """Return the client's trace of one streamed answer of ``n`` tokens, after a flush."""
    timeouts = {"total_timeout_s": TIMEOUT_S, "stall_timeout_s": TIMEOUT_S}
    async with Client(base_url, protocol="sglang", **timeouts, api_key=api_key) as client:
        await client.flush_cache()
        return await client.generate(ids, max_new_tokens=n)


def wrong(trace: RequestTrace, n_prompt: int, n: int) -> list[str]:
    """Return what is wrong with the trace of a complete answer; an empty list if nothing is."""
    facts = {
        "error": (trace.error, None),
        "prompt_tokens": (trace.prompt_tokens, n_prompt),
        "completion_tokens": (trace.completion_tokens, n),
        "cached_tokens": (trace.cached_tokens, 0),
        "finish_reason": (trace.finish_reason, "length"),
        "tokens of all events": (sum(trace.event_tokens), n),
    }
    return [f"{name} is {value}, right is {right}" for name, (value, right) in facts.items() if value != right]


@asynccontextmanager
async def played_back(answer: Answer, seed: int) -> AsyncIterator[str]:
    """Serve a recorded stream in random pieces, independent of its events, and yield the address."""
    pieces = random.Random(seed)

    async def generate(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": str(answer.content_type)})
        await response.prepare(request)
        rest = answer.text.encode()
        while rest:
            size = pieces.randint(1, 700)
            await response.write(rest[:size])
            await asyncio.sleep(0)
            rest = rest[size:]
        await response.write_eof()
        return response

    async def flush(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/generate", generate), web.post("/flush_cache", flush)])
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("")).rstrip("/")
