"""One request and its answer on a connection of its own; the only file that reads a clock for measuring.

What comes in is stamped as soon as it has been read from the socket, and looked at later: when there is enough of it,
when its end seems to have come, or when nothing came for a moment. So looking at one answer delays the stamps of
others as little as it can, and what an answer holds in memory stays bounded.
"""

import asyncio
import os
import time
from typing import cast

from bench.speed.stream import Stream

HOLD_BYTES = 2**12
"""An answer is looked at once this much of it has come. Little, for answers of one wave end together: what is left to
look at then delays the last stamps of all."""
END_OF_BODY = b"\n0\r\n\r\n"
"""How a body of unknown length ends. Where it comes in pieces, the next `Exchange.tick` sees to it."""

now_ns = time.monotonic_ns
"""The time in nanoseconds of the one clock that all measurements use (CLOCK_MONOTONIC)."""


class Exchange(asyncio.Protocol):
    """A request under way. ``ended`` is set once its answer is complete or broken."""

    def __init__(self, stream: Stream, *, total_s: float, stall_s: float, first_token_s: float) -> None:
        """Be ready for a connection.

        Args:
            stream: takes in the answer.
            total_s: longest time from t0 to the answer's end.
            stall_s: longest silence after the first token.
            first_token_s: longest time from t0 to the first token.
        """
        self.ended = asyncio.get_running_loop().create_future()
        self.begin_ns = now_ns()
        """t0, once the request has been sent."""
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
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses

    def send(self, request: bytes) -> None:
        """Take t0 and send ``request``."""
        transport = self._transport
        if transport is None or transport.is_closing() or self.ended.done():
            return
        self._sent, self.begin_ns = True, now_ns()
        if transport.get_extra_info("sslcontext") is None:
            # Past the transport: uvloop's sends only after everything else that is ready has had its turn.
            try:
                request = request[os.write(transport.get_extra_info("socket").fileno(), request) :]
            except OSError as error:
                self.fail(f"the connection failed: {error}")
                return
        if request:
            transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Stamp what has been read."""
        self._reads.append((now_ns(), data))
        self._held += len(data)
        if self._held > HOLD_BYTES or data.endswith(END_OF_BODY):
            self._look()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that nothing more can come."""
        at_ns = now_ns()
        self._look()
        if error is not None:
            self.fail(f"the connection failed: {error or type(error).__name__}")
        elif self._stream.ended_ns is None:
            self._stream.close(at_ns)
        self._set_ended()

    def fail(self, reason: str) -> None:
        """End it with ``reason``, unless what had come before ended it already."""
        at_ns = now_ns()
        self._look()
        if self._stream.ended_ns is None:
            self._stream.fail(reason, at_ns)
        self._set_ended()

    def tick(self) -> None:
        """Look at what lies there if nothing came since the last tick, and end what has taken too long."""
        before, self._newest_ns = self._newest_ns, self._reads[-1][0] if self._reads else self._newest_ns
        if self._reads and (before == self._newest_ns or not self._stream.tokens):
            self._look()
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
        """When something came last; t0 if nothing has come."""
        return self._reads[-1][0] if self._reads else max(self._newest_ns, self.begin_ns)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _look(self) -> None:
        reads, self._reads, self._held = self._reads, [], 0
        if reads:
            self._newest_ns = reads[-1][0]
        self._stream.feed(reads)
        if self._stream.ended_ns is not None:
            self._set_ended()

    def _set_ended(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
