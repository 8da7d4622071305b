"""A streaming client for servers that speak one of :mod:`bench.speed.protocols`.

Each generation has its own raw connection, which is opened before t0; :mod:`bench.speed.exchange` time stamps it. All
other requests go through aiohttp. `run` runs the client on the fastest event loop available.
"""

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp

from bench.errors import ConfigError, EngineError
from bench.machine import event_loop
from bench.records.record import RequestTrace
from bench.speed.exchange import Exchange, now_ns
from bench.speed.protocols import dialect
from bench.speed.stream import SHOWN, Stream

__all__ = ["Client", "now_ns", "run"]

CONTROL_TIMEOUT_S = 60.0
"""Longest time for any request other than a generation."""
CONNECT_TIMEOUT_S = 30.0
"""Longest time to wait for a connection. Chosen: a busy server accepts within seconds."""
FLUSH_ATTEMPTS = 100
"""Number of flush requests before giving up: five seconds, with the pause between them."""
FLUSH_PAUSE_S = 0.05
"""Pause between flush requests: a server may count a request as running shortly after its last token, and then does not
flush."""
TICK_S = 0.05
"""Interval of checks for timeouts."""
HEALTH_PROMPT = (100,)
"""A token id that every vocabulary has."""

NO_CACHED_COUNT = "the server gave no count of cached tokens, so it is unproven that none came from its cache"
NO_EVENT_COUNT = (
    "the server did not report how many tokens an event carries: each counts as one, and the last as all that remain"
)

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` as `asyncio.run` does, on the loop of :mod:`bench.machine.event_loop`."""
    with asyncio.Runner(loop_factory=event_loop.new_event_loop) as runner:
        return runner.run(main)


class Client:
    """A client of one running server. Use as an async context manager."""

    def __init__(
        self,
        base_url: str,
        *,
        protocol: str,
        total_timeout_s: float,
        stall_timeout_s: float,
        first_token_timeout_s: float | None = None,
        api_key: str | None = None,
        model: str = "",
        text_of: Callable[[Sequence[int]], str] | None = None,
        keeps_prefixes: bool = True,
    ) -> None:
        """Store the server's address, its protocol and the timeouts.

        Args:
            base_url: e.g. ``http://127.0.0.1:30000``; the protocol's paths are appended to it.
            protocol: a module of :mod:`bench.speed.protocols`.
            total_timeout_s: longest time for one generation, from t0.
            stall_timeout_s: longest silence after the first token.
            first_token_timeout_s: longest time to the first token; None for ``stall_timeout_s``.
            api_key: sent as a bearer token.
            model: the served model's name, where the protocol sends one.
            text_of: turns ids into the text that is sent instead, for a server that accepts no ids.
            keeps_prefixes: whether the server may have a prefix cache.

        Raises:
            ConfigError: the address or the protocol is invalid.
        """
        self.base_url = base_url.rstrip("/")
        self._url = urlsplit(self.base_url)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ConfigError(f"'{base_url}' is not a server's address; expected something like http://127.0.0.1:30000")
        self._host = self._url.hostname
        self._port = self._url.port or {"http": 80, "https": 443}[self._url.scheme]
        self._dialect = dialect(protocol)
        self._limits = {
            "total_s": total_timeout_s,
            "stall_s": stall_timeout_s,
            "first_token_s": stall_timeout_s if first_token_timeout_s is None else first_token_timeout_s,
        }
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self._text_of = text_of
        self._ssl = ssl.create_default_context() if self._url.scheme == "https" else None
        self._in_flight: set[Exchange] = set()
        self._unproven = dict.fromkeys(self._dialect.UNPROVEN if keeps_prefixes else ())

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=CONTROL_TIMEOUT_S),
        )
        self._clock = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.cancel()
        await self._session.close()

    @property
    def unproven(self) -> tuple[str, ...]:
        """What this server cannot prove, or has not proven so far, one sentence each."""
        return tuple(self._unproven)

    async def generate(
        self,
        input_ids: Sequence[int],
        *,
        max_new_tokens: int,
        origin_ns: int | None = None,
        scheduled_ns: int | None = None,
    ) -> RequestTrace:
        """Generate exactly ``max_new_tokens`` tokens greedily and return the trace, even of a failed request.

        t0 is taken once the connection is open, just before the request's first bytes are sent. Events that were read
        together have the same time; events without new tokens have no time.

        Args:
            input_ids: the prompt.
            max_new_tokens: length of the answer; end-of-text tokens do not end it earlier.
            origin_ns: a time from `now_ns` that ``start_ns`` counts from; None counts from t0.
            scheduled_ns: when the request was due, in nanoseconds since ``origin_ns``; kept in the trace.
        """
        request = self._request(input_ids, max_new_tokens)
        stream = Stream(self._dialect)
        exchange = Exchange(stream, **self._limits)
        self._in_flight.add(exchange)
        try:
            await self._connect(exchange)
            exchange.send(request)
            await exchange.ended
        finally:
            self._in_flight.discard(exchange)
            exchange.close()
        trace = stream.trace(
            exchange.begin_ns,
            now_ns=now_ns(),
            start_ns=0 if origin_ns is None else exchange.begin_ns - origin_ns,
            scheduled_ns=scheduled_ns,
        )
        if trace.error is None and trace.cached_tokens is None:
            self._unproven[NO_CACHED_COUNT] = None
        if not trace.events_counted:
            self._unproven[NO_EVENT_COUNT] = None
        return trace

    @property
    def flushes(self) -> bool:
        """Whether `flush_cache` can empty the server's cache."""
        return self._dialect.FLUSH_PATH is not None

    def silent_s(self) -> float:
        """Return the seconds since any request in flight received data; 0 if none is in flight."""
        newest_ns = max((exchange.newest_ns for exchange in self._in_flight), default=None)
        return 0.0 if newest_ns is None else (now_ns() - newest_ns) / 1e9

    def fail_all(self, reason: str) -> None:
        """End every request in flight; their traces keep the tokens so far, with ``reason`` as the error."""
        for exchange in tuple(self._in_flight):
            exchange.fail(reason)

    async def flush_cache(self) -> None:
        """Empty the server's prefix cache, waiting a few seconds for requests that are just ending.

        Does nothing if the protocol has no such request.

        Raises:
            EngineError: the server does not answer or does not flush.
        """
        if self._dialect.FLUSH_PATH is None:
            return
        for _ in range(FLUSH_ATTEMPTS):
            status, text = await self._ask("POST", self._dialect.FLUSH_PATH)
            if status == 200:
                return
            await asyncio.sleep(FLUSH_PAUSE_S)
        raise EngineError(f"{self.base_url} does not flush its cache (HTTP {status}: {text[:SHOWN].strip()})")

    async def health_generate(self) -> None:
        """Return once the server has generated a token.

        Raises:
            EngineError: it does not answer, or cannot generate.
        """
        if self._dialect.HEALTH_PATH is None:
            trace = await self.generate(HEALTH_PROMPT, max_new_tokens=1)
            if trace.error is not None:
                raise EngineError(f"{self.base_url} cannot generate: {trace.error}")
            return
        status, text = await self._ask("GET", self._dialect.HEALTH_PATH)
        if status != 200:
            raise EngineError(f"{self.base_url} cannot generate (HTTP {status}: {text[:SHOWN].strip()})")

    def _request(self, input_ids: Sequence[int], max_new_tokens: int) -> bytes:
        """Return the bytes of a request."""
        prompt = list(input_ids) if self._text_of is None else self._text_of(input_ids)
        fields = self._dialect.request(prompt, max_new_tokens=max_new_tokens, model=self._model)
        body = json.dumps(fields, separators=(",", ":")).encode()
        headers = {
            "Host": self._url.netloc.rpartition("@")[2],
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **self._headers,
        }
        head = [f"POST {self._url.path}{self._dialect.PATH} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        return "\r\n".join([*head, "", ""]).encode("latin-1") + body

    async def _connect(self, exchange: Exchange) -> None:
        """Open the connection of ``exchange``, or make it fail."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: exchange, self._host, self._port, ssl=self._ssl)
        except TimeoutError:
            exchange.fail(f"the connection failed: {self.base_url} did not accept it within {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            exchange.fail(f"the connection failed: {error}")

    async def _tick(self) -> None:
        """Check periodically for requests that have timed out."""
        due_ns = now_ns()
        while True:
            await asyncio.sleep(TICK_S)
            late = now_ns() - due_ns > 2e9 * TICK_S
            due_ns = now_ns()
            # If the loop was blocked, data that arrived in the meantime has not been read yet.
            if not late:
                for exchange in tuple(self._in_flight):
                    exchange.tick()

    async def _ask(self, method: str, path: str) -> tuple[int, str]:
        """Return (status, body).

        Raises:
            EngineError: the server does not answer.
        """
        try:
            async with self._session.request(method, f"{self.base_url}{path}", allow_redirects=False) as answer:
                return answer.status, await answer.text(errors="replace")
        except TimeoutError:
            raise EngineError(f"{self.base_url}{path} did not answer within {CONTROL_TIMEOUT_S:g} s") from None
        except aiohttp.ClientError as error:
            raise EngineError(f"{self.base_url}{path} cannot be reached: {error or type(error).__name__}") from error
