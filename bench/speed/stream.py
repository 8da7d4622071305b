"""One streamed answer: from bytes and the times of their reads to the trace of its tokens. Reads no clock.

An event has arrived when its line is complete: its time is that of the read with the end of the line. Events that were
read together have the same time.
"""

from collections.abc import Callable, Sequence

from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from bench.records.record import RequestTrace
from bench.speed.protocols import EventFacts, StreamDialect

MAX_EVENT_BYTES = 2**26
"""Longest event that is accepted, so that no stream can use up all memory."""
SHOWN = 200
"""Characters of an answer that are quoted in a message."""


class _Body:
    """The body of an HTTP/1.1 response, which llhttp extracts from its framing."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        """Start before the head of the response.

        Args:
            take: called with each piece of the body.
        """
        self.status = 0
        """0 until the head has arrived."""
        self.complete = False
        self._framed = False
        self.on_body = take
        self._parser = HttpResponseParser(self)
        self.feed = self._parser.feed_data

    def close(self) -> None:
        """Handle the closed connection, which ends a body of unknown length."""
        self.complete = self.complete or (bool(self.status) and not self._framed)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._framed = self._framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete = True


class Stream:
    """One answer as far as it has arrived."""

    def __init__(self, dialect: StreamDialect) -> None:
        """Start empty.

        Args:
            dialect: reads the answer's events.
        """
        self.error: str | None = None
        """The first error."""
        self.tokens = 0
        """Number of tokens that have arrived."""
        self.ended_ns: int | None = None
        """When the answer was complete or failed."""
        self._dialect = dialect
        self._count = dialect.running_count
        self._body = _Body(self._piece)
        self._at_ns = 0
        """When the data that is being parsed was read."""
        self._event_ns: list[int] = []
        self._event_tokens: list[int] = []
        self._counted = True
        self._facts = EventFacts()
        self._newest: bytes | None = None
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._refusal = b""
        self._done = False

    def feed(self, reads: Sequence[tuple[int, bytes]]) -> None:
        """Parse data that was read from the connection.

        Args:
            reads: (time in nanoseconds, bytes), in order.
        """
        for at_ns, data in reads:
            if self.ended_ns is not None:
                return
            self._at_ns = at_ns
            try:
                self._body.feed(data)
            except HttpParserCallbackError:
                raise
            except HttpParserError as error:
                self.fail(f"the server answered with something that is not HTTP: {error}", at_ns)
                return
            if self._body.complete:
                self._end(at_ns)

    def close(self, at_ns: int) -> None:
        """Handle that the server closed the connection."""
        self._body.close()
        if self._body.complete:
            self._end(at_ns)
        elif self._body.status == 0:
            self.fail("the connection failed: the server closed it without an answer", at_ns)
        else:
            self.fail("the connection failed: the server closed it in the middle of the answer", at_ns)

    def fail(self, error: str, at_ns: int) -> None:
        """End the answer with ``error``, unless it already has an error."""
        self.error = self.error or error
        self.ended_ns = self.ended_ns or at_ns

    def _end(self, at_ns: int) -> None:
        """Check the answer that has just ended for completeness."""
        if self.ended_ns is not None:
            return
        self.ended_ns = at_ns
        if self._body.status != 200:
            text = self._refusal.decode(errors="replace")[:SHOWN].strip()
            self.error = self.error or f"the server answered HTTP {self._body.status}: {text}"
            return
        last = b"".join(self._rest)
        if last.startswith(b"data:"):  # a last line without its newline
            self._line(last)
        self._settle()
        if not self._done:
            self.error = self.error or f"the stream ended after {self.tokens} tokens without [DONE]"
        if self._facts.finish_reason is None:
            self.error = self.error or f"the stream ended after {self.tokens} tokens without a finish reason"

    def _piece(self, piece: bytes) -> None:
        """Parse a piece of the body and the events that it completes."""
        if self._body.status != 200:
            if len(self._refusal) < 4 * SHOWN:
                self._refusal += piece[: 4 * SHOWN]
            return
        if self._rest:
            self._rest.append(piece)
            self._rest_bytes += len(piece)
            if self._rest_bytes > MAX_EVENT_BYTES:
                self.fail(f"the server sent an event of more than {MAX_EVENT_BYTES >> 20} MiB", self._at_ns)
                return
            if b"\n" not in piece:
                return
            piece = b"".join(self._rest)
            self._rest.clear()
        *lines, rest = piece.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._line(line)
        if rest:
            self._rest.append(rest)
            self._rest_bytes = len(rest)

    def _line(self, line: bytes) -> None:
        """Count the tokens of an event."""
        tokens = self._count(line)
        if tokens is not None:
            self._newest = line
        else:
            data = line[5:].strip()
            if data == b"[DONE]":
                self._done = True
                return
            self._settle()
            facts = self._read_event(data)
            tokens = facts.tokens
            if facts.more and tokens is None:
                self._counted = False
                tokens = self.tokens + 1
            elif not (facts.more or self._counted):
                # The server's total arrives without text: the remaining tokens belong to the last event with text.
                tokens = None
        if tokens is not None and tokens > self.tokens:
            self._event_ns.append(self._at_ns)
            self._event_tokens.append(tokens - self.tokens)
            self.tokens = tokens

    def _settle(self) -> None:
        """Read the newest ordinary event, of which only the count has been read so far."""
        if self._newest is not None:
            newest, self._newest = self._newest[5:], None
            self._read_event(newest)

    def _read_event(self, data: bytes) -> EventFacts:
        """Return what an event reports, and remember it."""
        try:
            facts = self._dialect.read_event(data)
        except ValueError:
            text = data[:SHOWN].decode(errors="replace")
            self.error = self.error or f"the server sent an event that cannot be read: {text}"
            return EventFacts()
        if facts.error is not None:
            self.error = self.error or f"the server sent an error after {self.tokens} tokens: {facts.error}"
        if facts.aborted is not None:
            self.error = self.error or f"the server aborted after {self.tokens} tokens: {facts.aborted}"
        self._facts.update(facts)
        return facts

    def _arrived(self, begin_ns: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (times of the events since ``begin_ns``, their tokens)."""
        times = [at_ns - begin_ns for at_ns in self._event_ns]
        tokens = self._event_tokens
        total = self._facts.completion_tokens
        if self._counted or total is None or not tokens:
            return tuple(times), tuple(tokens)
        # The sum must be the server's total: the last event gets the remaining tokens. If there are more events than
        # tokens, the last ones carried none.
        n_events = min(len(tokens), total)
        return tuple(times[:n_events]), tuple(
            [*tokens[: n_events - 1], total - sum(tokens[: n_events - 1])] if n_events else ()
        )

    def trace(self, begin_ns: int, *, now_ns: int, start_ns: int = 0, scheduled_ns: int | None = None) -> RequestTrace:
        """Return the trace of the answer.

        Args:
            begin_ns: t0.
            now_ns: end of an answer that has not ended.
            start_ns: t0 since the start of the trial.
            scheduled_ns: when the request was due, since the start of the trial.
        """
        self._settle()
        event_ns, event_tokens = self._arrived(begin_ns)
        return RequestTrace(
            start_ns=start_ns,
            scheduled_ns=scheduled_ns,
            event_ns=event_ns,
            event_tokens=event_tokens,
            events_counted=self._counted,
            end_ns=max((self.ended_ns or now_ns) - begin_ns, 0),
            prompt_tokens=self._facts.prompt_tokens,
            completion_tokens=self._facts.completion_tokens,
            cached_tokens=self._facts.cached_tokens,
            finish_reason=self._facts.finish_reason,
            error=self.error,
        )
