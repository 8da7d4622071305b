"""Broken exchanges: the trace has the fault, and everything received before it."""

import asyncio
from typing import Any

import pytest

from bench.errors import EngineError
from bench.records.record import RequestTrace
from bench.speed.client import Client, run
from testkit.streamer import Running, Script, running
from tests.support.clients import PROMPT, PROTOCOLS, generate, plain, with_client

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("ending", "error"),
    [
        ("error", "the server sent an error after 5 tokens: scripted error"),
        ("abort", "the server aborted after 5 tokens: "),
        ("silent", "the stream ended after 5 tokens without [DONE]"),
        ("unfinished", "the stream ended after 5 tokens without a finish reason"),
        ("cut", "the connection failed: the server closed it in the middle of the answer"),
        ("stall", "the server was silent for 0.3 s"),
    ],
)
def test_a_broken_stream_is_reported_and_recorded(server: Running, ending: Any, error: str, protocol: str) -> None:
    trace = generate(server, Script([(0.02, 1)] * 5, ending=ending), stall_s=0.3, protocol=protocol)
    assert trace.error is not None
    assert trace.error.startswith(error)
    assert trace.event_tokens == (1,) * 5
    assert (trace.prompt_tokens, trace.completion_tokens) == (3, 5)


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_refusal_is_reported(server: Running, status: int) -> None:
    trace = generate(server, plain(status=status))
    assert trace.error == f'the server answered HTTP {status}: {{"error": {{"message": "scripted refusal"}}}}'
    assert (trace.event_ns, trace.completion_tokens) == ((), None)


def test_the_reason_of_an_abort_is_reported(server: Running) -> None:
    trace = generate(server, Script([(0.02, 1)] * 5, ending="abort"))
    assert trace.error == "the server aborted after 5 tokens: scripted abort"


def test_the_first_token_has_a_time_limit_of_its_own(server: Running) -> None:
    late = Script([(0.8, 1), (0.02, 7)], role_first=True)
    assert generate(server, late, stall_s=0.3).error == "the server sent no token within 0.3 s"
    assert generate(server, late, stall_s=0.3, first_token_timeout_s=5).error is None
    trace = generate(server, Script([(0.02, 1), (0.8, 7)]), stall_s=0.3, first_token_timeout_s=5)
    assert trace.error == "the server was silent for 0.3 s"


def test_all_requests_can_be_ended_at_once(server: Running) -> None:
    async def use(client: Client) -> list[RequestTrace]:
        calls = [asyncio.create_task(client.generate(PROMPT, max_new_tokens=8)) for _ in range(3)]
        await asyncio.sleep(0.3)
        client.fail_all("the server hangs")
        return await asyncio.gather(*calls)

    server.load(*[Script([(0.02, 2), (0.02, 1)], ending="stall")] * 3)
    traces = with_client(server, use)
    assert {trace.error for trace in traces} == {"the server hangs"}
    assert {trace.event_tokens for trace in traces} == {(2, 1)}


def test_a_request_that_is_cancelled_closes_its_connection(server: Running) -> None:
    async def use(client: Client) -> None:
        call = asyncio.create_task(client.generate(PROMPT, max_new_tokens=8))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.3)

    server.load(Script([(0.02, 1)] * 200))
    with_client(server, use)
    # The server stops writing to a closed connection.
    assert 1 <= len(server.truth()[0].written) < 40


def test_an_answer_that_takes_too_long_is_reported(server: Running) -> None:
    trace = generate(server, Script([(0.1, 1)] * 50), total_s=0.5)
    assert trace.error == "the answer was not complete after 0.5 s"
    assert 1 <= sum(trace.event_tokens) < 6


def test_a_dead_or_missing_server_is_reported() -> None:
    with running() as server:
        died = generate(server, Script([(0.02, 1)] * 3, ending="die"))
        missing = with_client(server, lambda client: client.generate(PROMPT, max_new_tokens=8))
        assert died.error is not None
        assert died.error.startswith("the connection failed")
        assert died.event_tokens == (1, 1, 1)
        assert missing.error is not None
        assert missing.error.startswith("the connection failed")
        for call in (Client.flush_cache, Client.health_generate):
            with pytest.raises(EngineError, match="cannot be reached"):
                with_client(server, call)
        with pytest.raises(EngineError, match="cannot generate: the connection failed"):
            with_client(server, Client.health_generate, protocol="openai")


def test_an_event_that_is_not_json_is_reported() -> None:
    async def main() -> RequestTrace:
        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {half\n\ndata: [DONE]\n\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        async with server, Client(url, protocol="sglang", total_timeout_s=5, stall_timeout_s=5) as client:
            return await client.generate(PROMPT, max_new_tokens=1)

    assert run(main()).error == "the server sent an event that cannot be read: {half"
