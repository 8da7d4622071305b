"""A streaming client for the servers that speak one of :mod:`bench.speed.protocols`.

Generations go over bare connections, each its own and opened before t0; see :mod:`bench.speed.exchange` for how they
are stamped. Everything else goes over aiohttp. `run` runs it on the fastest event loop there is.
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
"""How long anything but a generation may take."""
CONNECT_TIMEOUT_S = 30.0
"""Longest wait for a connection. Chosen: a busy server accepts within seconds."""
FLUSH_ATTEMPTS = 100
"""Times that a flush is asked for: five seconds with the pause between them."""
FLUSH_PAUSE_S = 0.05
"""A server may count a request as running for a moment after its last token, and does not flush then."""
TICK_S = 0.05
"""How often timeouts are looked for."""
HEALTH_PROMPT = (100,)
"""One id that every vocabulary has."""

NO_CACHED_COUNT = "the server gave no count of cached tokens, so that none came from its cache is not proven"
NO_EVENT_COUNT = (
    "the server did not tell how many tokens an event carries: each is taken for one, the last for what is missing"
)

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` as `asyncio.run` does, on the loop of :mod:`bench.machine.event_loop`."""
    with asyncio.Runner(loop_factory=event_loop.new_event_loop) as runner:
        return runner.run(main)


class Client:
    """Talks to one running server. Use as an async context manager."""

    def __init__(
        self,
        base_url: str,
        *,
        protocol: str = "sglang",
        total_timeout_s: float,
        stall_timeout_s: float,
        first_token_timeout_s: float | None = None,
        api_key: str | None = None,
        model: str = "",
        text_of: Callable[[Sequence[int]], str] | None = None,
        keeps_prefixes: bool = True,
    ) -> None:
        """Remember where the server is, how it is asked, and how long to wait for it.

        Args:
            base_url: e.g. ``http://127.0.0.1:30000``; what the protocol's paths are appended to.
            protocol: a module of :mod:`bench.speed.protocols`.
            total_timeout_s: longest time that one generation may take, from t0.
            stall_timeout_s: longest silence after the first token.
            first_token_timeout_s: longest wait for the first token; None for that of a silence.
            api_key: sent as a bearer token.
            model: the name that the model is served under, where the protocol sends one.
            text_of: turns ids into the text that is sent in their place, for a server that takes no ids.
            keeps_prefixes: the server may have a prefix cache.

        Raises:
            ConfigError: the address or the protocol is none.
        """
        self.base_url = base_url.rstrip("/")
        self._url = urlsplit(self.base_url)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ConfigError(f"'{base_url}' is no address of a server; one looks like http://127.0.0.1:30000")
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
        self._under_way: set[Exchange] = set()
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
        """What this server can never prove, or did not so far, one sentence each."""
        return tuple(self._unproven)

    async def generate(
        self,
        input_ids: Sequence[int],
        *,
        max_new_tokens: int,
        origin_ns: int | None = None,
        scheduled_ns: int | None = None,
    ) -> RequestTrace:
        """Generate exactly ``max_new_tokens`` tokens greedily and return what was seen, also of a failed request.

        t0 is taken with the connection open, just before the request's first bytes are sent. Events that were read
        together have the same time; events without new tokens have none.

        Args:
            input_ids: the prompt.
            max_new_tokens: end-of-text tokens do not stop it earlier.
            origin_ns: a time from `now_ns` that ``start_ns`` counts from; None counts from t0.
            scheduled_ns: when the request was due, in nanoseconds since ``origin_ns``; kept in the trace.
        """
        request = self._request(input_ids, max_new_tokens)
        stream = Stream(self._dialect)
        exchange = Exchange(stream, **self._limits)
        self._under_way.add(exchange)
        try:
            await self._connect(exchange)
            exchange.send(request)
            await exchange.ended
        finally:
            self._under_way.discard(exchange)
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
        """Return for how many seconds none of the requests under way has had an answer; 0 where there are none."""
        newest_ns = max((exchange.newest_ns for exchange in self._under_way), default=None)
        return 0.0 if newest_ns is None else (now_ns() - newest_ns) / 1e9

    def fail_all(self, reason: str) -> None:
        """End every request under way; their traces keep what had come and carry ``reason`` as error."""
        for exchange in tuple(self._under_way):
            exchange.fail(reason)

    async def flush_cache(self) -> None:
        """Empty the server's prefix cache, waiting a few seconds for requests that are just ending.

        Does nothing where the protocol has no means for it.

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
        """Return once the server has really generated a token.

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
        asked = self._dialect.request(prompt, max_new_tokens=max_new_tokens, model=self._model)
        body = json.dumps(asked, separators=(",", ":")).encode()
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
        """Open the connection of ``exchange``, or let it fail."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: exchange, self._host, self._port, ssl=self._ssl)
        except TimeoutError:
            exchange.fail(f"the connection failed: {self.base_url} did not accept it in {CONNECT_TIMEOUT_S:g} s")
        except OSError as error:
            exchange.fail(f"the connection failed: {error}")

    async def _tick(self) -> None:
        """Look for requests that have taken too long, again and again."""
        due_ns = now_ns()
        while True:
            await asyncio.sleep(TICK_S)
            late = now_ns() - due_ns > 2e9 * TICK_S
            due_ns = now_ns()
            # After a moment in which nothing could run, what came meanwhile has yet to be read.
            if not late:
                for exchange in tuple(self._under_way):
                    exchange.tick()

    async def _ask(self, method: str, path: str) -> tuple[int, str]:
        """Return (status, body).

        Raises:
            EngineError: no answer.
        """
        try:
            async with self._session.request(method, f"{self.base_url}{path}", allow_redirects=False) as answer:
                return answer.status, await answer.text(errors="replace")
        except TimeoutError:
            raise EngineError(f"{self.base_url}{path} gave no answer in {CONTROL_TIMEOUT_S:g} s") from None
        except aiohttp.ClientError as error:
            raise EngineError(f"{self.base_url}{path} cannot be reached: {error or type(error).__name__}") from error
