"""The only module that reads a clock for measuring: a streaming client of SGLang's native ``/generate``.

Bytes are stamped when they are read from the socket and kept; JSON is parsed after the stream has ended, so that
parsing never delays a timestamp. One chunk of bytes may carry several events: they arrived together and share a stamp.
"""

import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from bench.errors import EngineError
from bench.record import RequestTrace

CONTROL_TIMEOUT_S = 120.0


class Client:
    """One server's client. Use as an async context manager."""

    def __init__(
        self, base_url: str, *, total_timeout_s: float, stall_timeout_s: float, api_key: str | None = None
    ) -> None:
        """Speak to ``base_url``.

        Args:
            base_url: e.g. ``http://127.0.0.1:30000``.
            total_timeout_s: longest duration of one request.
            stall_timeout_s: longest silence within one request, prefill included.
            api_key: sent as a bearer token.
        """
        self._base_url = base_url
        self._stall_timeout_s = stall_timeout_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = aiohttp.ClientTimeout(total=total_timeout_s, sock_read=stall_timeout_s)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers, read_bufsize=2**20)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def generate(
        self, input_ids: Sequence[int], *, max_new_tokens: int, origin_ns: int | None = None
    ) -> RequestTrace:
        """Stream one greedy completion of exactly ``max_new_tokens`` and return what was seen.

        Never raises for what the server does: an HTTP error, an error event, a cut stream or a stall is the trace's
        ``error``, beside everything received before it.

        Args:
            input_ids: prompt.
            max_new_tokens: tokens to generate; end-of-text does not stop it.
            origin_ns: clock value that ``start_ns`` counts from; this request's own start by default.
        """
        body = json.dumps(
            {
                "input_ids": list(input_ids),
                "sampling_params": {"max_new_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True},
                "stream": True,
            }
        ).encode()
        chunks: list[tuple[int, bytes]] = []
        problem: str | None = None
        begin = time.perf_counter_ns()
        try:
            async with self._session.post(
                f"{self._base_url}/generate", data=body, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status == 200:
                    async for chunk in response.content.iter_any():
                        chunks.append((time.perf_counter_ns(), chunk))
                else:
                    problem = f"HTTP {response.status}: {(await response.text())[:300]}"
        except aiohttp.ServerTimeoutError:
            problem = f"stalled: no byte for {self._stall_timeout_s:g} s"
        except TimeoutError:
            problem = "the request took longer than its time limit"
        except aiohttp.ClientError as error:
            problem = f"connection lost: {type(error).__name__}: {error}"
        end = time.perf_counter_ns()
        return _read(chunks, problem, begin=begin, end=end, origin=begin if origin_ns is None else origin_ns)

    async def flush_cache(self) -> None:
        """Empty the server's prefix cache.

        Raises:
            EngineError: the server refuses.
        """
        await self._control("/flush_cache", method="POST")

    async def server_info(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        info: dict[str, Any] = json.loads(await self._control("/server_info"))
        return info

    async def is_alive(self) -> bool:
        """Tell whether the server answers ``/health``."""
        try:
            await self._control("/health")
        except EngineError:
            return False
        return True

    async def _control(self, path: str, method: str = "GET") -> str:
        timeout = aiohttp.ClientTimeout(total=CONTROL_TIMEOUT_S)
        try:
            async with self._session.request(method, f"{self._base_url}{path}", timeout=timeout) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(f"{path}: the server does not answer ({type(error).__name__})") from error
        if response.status != 200:
            raise EngineError(f"{path}: HTTP {response.status}: {text[:200]}")
        return text


def now_ns() -> int:
    """Return the client's clock, for a wave's common origin."""
    return time.perf_counter_ns()


def _events(chunks: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return (arrival, payload) of each server-sent event; an event arrives with the chunk that completes its line."""
    found: list[tuple[int, bytes]] = []
    rest = b""
    for stamp, chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        found += [(stamp, line[5:].strip()) for line in lines if line.startswith(b"data:")]
    return found


def _read(
    chunks: Sequence[tuple[int, bytes]], problem: str | None, *, begin: int, end: int, origin: int
) -> RequestTrace:
    """Turn stamped bytes into a trace."""
    times: list[int] = []
    tokens: list[int] = []
    meta: dict[str, Any] = {}
    seen = 0
    done = False
    for stamp, payload in _events(chunks):
        if payload == b"[DONE]":
            done = True
            break
        try:
            event = json.loads(payload)
        except ValueError:
            problem = problem or f"an event is not JSON: {payload[:80]!r}"
            break
        if "error" in event:
            said = event["error"]
            problem = (
                problem
                or f"the server reported an error: {said.get('message', said) if isinstance(said, dict) else said}"
            )
            continue
        meta = event.get("meta_info", {})
        count = meta.get("completion_tokens", len(event.get("output_ids", ())))
        if count > seen:
            times.append(stamp - begin)
            tokens.append(count - seen)
            seen = count
    finish = meta.get("finish_reason")
    if problem is None and (not done or finish is None):
        problem = f"the stream was cut after {seen} tokens"
    return RequestTrace(
        start_ns=begin - origin,
        event_ns=tuple(times),
        event_tokens=tuple(tokens),
        end_ns=end - begin,
        prompt_tokens=meta.get("prompt_tokens"),
        completion_tokens=meta.get("completion_tokens"),
        cached_tokens=meta.get("cached_tokens"),
        finish_reason=finish.get("type") if isinstance(finish, dict) else finish,
        error=problem,
    )
