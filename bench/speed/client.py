"""A streaming client for SGLang's native API; the only file that reads a clock for measuring.

A chunk is stamped as soon as it has been read from the socket and looked at afterwards. SGLang streams cumulatively:
every event repeats the whole answer, so parsing each one would cost the square of the answer's length. Of an event
only its running token count is looked for; the newest one is kept, and parsed once when the stream has ended.
"""

import asyncio
import io
import json
import re
import time
from collections.abc import Sequence
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp
from pydantic import BaseModel

from bench.errors import EngineError
from bench.record import RequestTrace

CONTROL_TIMEOUT_S = 60.0
"""How long anything but a generation may take."""
FLUSH_ATTEMPTS = 100
FLUSH_PAUSE_S = 0.05
"""A server may count a request as running for a moment after its last token, and does not flush then."""

_COUNT = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
"""Cannot be met inside the generated text, where JSON puts a backslash before each quotation mark."""


def now_ns() -> int:
    """Return the time in nanoseconds of the one clock that all measurements use (CLOCK_MONOTONIC)."""
    return time.monotonic_ns()


class _Finish(BaseModel):
    type: str
    message: str | None = None


class _Meta(BaseModel):
    finish_reason: _Finish | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class _Fault(BaseModel):
    message: str


class _Event(BaseModel):
    """What is read of an event; SGLang sends more."""

    output_ids: tuple[int, ...] = ()
    meta_info: _Meta = _Meta()
    error: _Fault | str | None = None


class _Stream:
    """What has been seen of one answer so far."""

    def __init__(self) -> None:
        self.error: str | None = None
        """The first thing that went wrong."""
        self._begun = False
        self._begin_ns = now_ns()
        self._event_ns: list[int] = []
        self._event_tokens: list[int] = []
        self._tokens = 0
        self._newest = b"{}"
        self._rest = b""
        self._done = False

    def begin(self) -> None:
        """Take t0, unless it has been taken: the request's bytes go out next."""
        if not self._begun:
            self._begun, self._begin_ns = True, now_ns()

    def feed(self, chunk: bytes) -> None:
        """Stamp a chunk and take in the events that it completes."""
        at_ns = now_ns()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._take(line[5:].strip(), at_ns)

    def fail(self, error: str) -> None:
        """Keep ``error``, unless something else went wrong before."""
        self.error = self.error or error

    def _take(self, data: bytes, at_ns: int) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        counted = _COUNT.search(data)
        # An event without a count is seldom and short: it names a role, or it is an error.
        tokens = int(counted[1]) if counted else len(self._parse(data).output_ids)
        if counted or tokens:
            self._newest = data
        if tokens > self._tokens:
            self._event_ns.append(at_ns - self._begin_ns)
            self._event_tokens.append(tokens - self._tokens)
            self._tokens = tokens

    def _parse(self, data: bytes) -> _Event:
        try:
            event = _Event.model_validate_json(data)
        except ValueError:
            self.fail(f"the server sent an event that cannot be read: {data[:200].decode(errors='replace')}")
            return _Event()
        if event.error is not None:
            message = event.error if isinstance(event.error, str) else event.error.message
            self.fail(f"the server sent an error after {self._tokens} tokens: {message}")
        return event

    def trace(self, origin_ns: int | None) -> RequestTrace:
        """Return everything seen; the stream has ended now."""
        end_ns = now_ns() - self._begin_ns
        meta = self._parse(self._newest).meta_info
        finish = meta.finish_reason
        if finish and finish.type == "abort":
            self.fail(f"the server aborted after {self._tokens} tokens: {finish.message}")
        if not self._done:
            self.fail(f"the stream ended after {self._tokens} tokens without [DONE]")
        if finish is None:
            self.fail(f"the stream ended after {self._tokens} tokens without a finish reason")
        return RequestTrace(
            start_ns=0 if origin_ns is None else self._begin_ns - origin_ns,
            event_ns=tuple(self._event_ns),
            event_tokens=tuple(self._event_tokens),
            end_ns=end_ns,
            prompt_tokens=meta.prompt_tokens,
            completion_tokens=meta.completion_tokens,
            cached_tokens=meta.cached_tokens,
            finish_reason=finish.type if finish else None,
            error=self.error,
        )


async def _on_chunk(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestChunkSentParams
) -> None:
    """Begin the stream whose request is being sent: aiohttp calls this before it hands a chunk to the socket."""
    stream: _Stream = context.trace_request_ctx
    stream.begin()


class Client:
    """Talks to one running server. Use as an async context manager.

    Every request has a connection of its own, opened before t0: a server may just be closing one kept alive.
    """

    def __init__(
        self, base_url: str, *, total_timeout_s: float, stall_timeout_s: float, api_key: str | None = None
    ) -> None:
        """Remember where the server is and how long to wait for it.

        Args:
            base_url: e.g. ``http://127.0.0.1:30000``.
            total_timeout_s: longest time one generation may take.
            stall_timeout_s: longest silence of a stream, the wait for its first token included.
            api_key: sent as a bearer token.
        """
        self.base_url = base_url
        self._total_timeout_s = total_timeout_s
        self._stall_timeout_s = stall_timeout_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(_on_chunk)
        self._session = aiohttp.ClientSession(
            self.base_url,
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self._total_timeout_s, sock_read=self._stall_timeout_s),
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def generate(
        self, input_ids: Sequence[int], *, max_new_tokens: int, origin_ns: int | None = None
    ) -> RequestTrace:
        """Generate exactly ``max_new_tokens`` tokens greedily and return what was seen, also of a failed request.

        t0 is taken with the connection open, just before the request's first bytes are sent. Events that were read
        together have the same time; events without new tokens have none.

        Args:
            input_ids: the prompt.
            max_new_tokens: end-of-text tokens do not stop it earlier.
            origin_ns: a time from :func:`now_ns` that ``start_ns`` counts from; None counts from t0.
        """
        body = {
            "input_ids": list(input_ids),
            "sampling_params": {"max_new_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True},
            "stream": True,
        }
        stream = _Stream()
        # Not bytes: aiohttp would send those in one go, however many they are, and stop the other streams meanwhile.
        data = io.BytesIO(json.dumps(body).encode())
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post("/generate", data=data, headers=headers, trace_request_ctx=stream) as answer:
                if answer.status == 200:
                    async for chunk in answer.content.iter_any():
                        stream.feed(chunk)
                else:
                    text = await answer.text(errors="replace")
                    stream.fail(f"the server answered HTTP {answer.status}: {text[:200].strip()}")
        except aiohttp.SocketTimeoutError:
            stream.fail(f"the server was silent for {self._stall_timeout_s:g} s")
        except TimeoutError:
            stream.fail(f"the answer was not complete after {self._total_timeout_s:g} s")
        except aiohttp.ClientError as error:
            stream.fail(f"the connection failed: {error or type(error).__name__}")
        return stream.trace(origin_ns)

    async def flush_cache(self) -> None:
        """Empty the server's prefix cache, waiting a few seconds for requests that are just ending.

        Raises:
            EngineError: the server does not answer or does not flush.
        """
        for _ in range(FLUSH_ATTEMPTS):
            status, text = await self._ask("POST", "/flush_cache")
            if status == 200:
                return
            await asyncio.sleep(FLUSH_PAUSE_S)
        raise EngineError(f"{self.base_url} does not flush its cache (HTTP {status}: {text[:200].strip()})")

    async def health_generate(self) -> None:
        """Return once the server has really generated a token.

        Raises:
            EngineError: it does not answer, or cannot generate.
        """
        status, text = await self._ask("GET", "/health_generate")
        if status != 200:
            raise EngineError(f"{self.base_url} cannot generate (HTTP {status}: {text[:200].strip()})")

    async def _ask(self, method: str, path: str) -> tuple[int, str]:
        """Return (status, body).

        Raises:
            EngineError: no answer.
        """
        timeout = aiohttp.ClientTimeout(total=CONTROL_TIMEOUT_S)
        try:
            async with self._session.request(method, path, timeout=timeout) as answer:
                return answer.status, await answer.text(errors="replace")
        except TimeoutError:
            raise EngineError(f"{self.base_url}{path} gave no answer in {CONTROL_TIMEOUT_S:g} s") from None
        except aiohttp.ClientError as error:
            raise EngineError(f"{self.base_url}{path} cannot be reached: {error or type(error).__name__}") from error
