"""A client for the duration of a call."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bench.records.record import RequestTrace
from bench.speed.client import Client, run
from bench.speed.protocols import names
from testkit.streamer import Running, Script

T = TypeVar("T")
PROMPT = [11, 12, 13]
PROTOCOLS = names()


def with_client(
    server: Running,
    use: Callable[[Client], Coroutine[Any, Any, T]],
    total_s: float = 20,
    stall_s: float = 10,
    protocol: str = "sglang",
    **more: Any,
) -> T:
    timeouts = {"total_timeout_s": total_s, "stall_timeout_s": stall_s}

    async def main() -> T:
        async with Client(server.base_url, protocol=protocol, **timeouts, **more) as client:
            return await use(client)

    return run(main())


def generate(server: Running, script: Script, **options: Any) -> RequestTrace:
    server.load(script)
    return with_client(server, lambda client: client.generate(PROMPT, max_new_tokens=8), **options)


def plain(tokens: int = 8, **changes: Any) -> Script:
    return Script(steps=[(0.002, 1)] * tokens, **changes)
