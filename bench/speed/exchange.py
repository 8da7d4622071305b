"""One request and its answer on a separate connection; the only file that reads a clock for measurements.

Data is time stamped as soon as it has been read from the socket, and parsed later: once enough has arrived, when it
seems complete, or after a pause. Parsing one answer then delays the time stamps of others as little as possible, and
the memory of an answer stays bounded.
"""

import asyncio
import os
import time
from typing import cast

from bench.speed.stream import Stream

HOLD_BYTES = 2**12
"""Amount of unparsed data that triggers parsing. Small, because the answers of a wave end together: data left to parse
at that time delays the last time stamps of all of them."""
END_OF_BODY = b"\n0\r\n\r\n"
"""End of a body of unknown length. If it arrives in pieces, the next `Exchange.tick` handles it."""

now_ns = time.monotonic_ns
"""Returns the time in nanoseconds of the single clock that all measurements use (CLOCK_MONOTONIC)."""


class Exchange(asyncio.Protocol):
    """A request in flight. ``ended`` is set once its answer is complete or has failed."""

    def __init__(self, stream: Stream, *, total_s: float, stall_s: float, first_token_s: float) -> None:
        """Wait for a connection.

        Args:
            stream: receives the answer.
            total_s: longest time from t0 to the answer's end.
            stall_s: longest silence after the first token.
            first_token_s: longest time from t0 to the first token.
        """
        self.ended = asyncio.get_running_loop().create_future()
        self.begin_ns = now_ns()
        """t0 once the request has been sent."""
        self._sent = False
        self._stream = stream
        self._total_s = total_s
        self._stall_s = stall_s
        self._first_token_s = first_token_s
        self._reads: list[tuple[int, bytes]] = []
        self._held = 0
        self._newest_ns = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass

    def send(self, request: bytes) -> None:
        """Take t0 and send ``request``."""
        transport = self._transport
        if transport is None or transport.is_closing() or self.ended.done():
            return
        self._sent, self.begin_ns = True, now_ns()
        if transport.get_extra_info("sslcontext") is None:
            # Bypasses the transport, because uvloop's sends only after all other ready callbacks have run.
            try:
                request = request[os.write(transport.get_extra_info("socket").fileno(), request) :]
            except OSError as error:
                self.fail(f"the connection failed: {error}")
                return
        if request:
            transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Time stamp the data."""
        self._reads.append((now_ns(), data))
        self._held += len(data)
        if self._held > HOLD_BYTES or data.endswith(END_OF_BODY):
            self._parse()

    def connection_lost(self, error: Exception | None) -> None:
        """End the answer: no more data can arrive."""
        at_ns = now_ns()
        self._parse()
        if error is not None:
            self.fail(f"the connection failed: {error or type(error).__name__}")
        elif self._stream.ended_ns is None:
            self._stream.close(at_ns)
        self._set_ended()

    def fail(self, reason: str) -> None:
        """End the answer with ``reason``, unless data that has already arrived ends it."""
        at_ns = now_ns()
        self._parse()
        if self._stream.ended_ns is None:
            self._stream.fail(reason, at_ns)
        self._set_ended()

    def tick(self) -> None:
        """Parse pending data if none has arrived since the last tick, and end the answer if it has timed out."""
        before, self._newest_ns = self._newest_ns, self._reads[-1][0] if self._reads else self._newest_ns
        if self._reads and (before == self._newest_ns or not self._stream.tokens):
            self._parse()
        if not self._sent or self._stream.ended_ns is not None:
            return
        at_ns = now_ns()
        waited_s = (at_ns - self.begin_ns) / 1e9
        if waited_s > self._total_s:
            self.fail(f"the answer was not complete after {self._total_s:g} s")
        elif self._stream.tokens:
            if (at_ns - self._newest_ns) / 1e9 > self._stall_s:
                self.fail(f"the server was silent for {self._stall_s:g} s")
        elif waited_s > self._first_token_s:
            self.fail(f"the server sent no token within {self._first_token_s:g} s")

    @property
    def newest_ns(self) -> int:
        """Time of the last data; t0 before any."""
        return self._reads[-1][0] if self._reads else max(self._newest_ns, self.begin_ns)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _parse(self) -> None:
        reads, self._reads, self._held = self._reads, [], 0
        if reads:
            self._newest_ns = reads[-1][0]
        self._stream.feed(reads)
        if self._stream.ended_ns is not None:
            self._set_ended()

    def _set_ended(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
