"""Handwritten streams: the effect of each piece of an answer on the trace and its error."""

import json
from typing import Any

import pytest

from bench.records.record import RequestTrace
from bench.speed.protocols import dialect
from bench.speed.stream import Stream

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    return chunk(b"data: " + json.dumps(fields).encode() + b"\n\n")


def tokens(total: int, finish: dict[str, str] | None = None) -> bytes:
    """Return an event of SGLang's with the ids of a whole answer."""
    meta = {"finish_reason": finish, "prompt_tokens": 7, "completion_tokens": total, "cached_tokens": 2}
    return event(output_ids=list(range(total)), meta_info=meta)


def text(content: str, finish: str | None = None, **more: Any) -> bytes:
    """Return an event of OpenAI's."""
    return event(choices=[{"text": content, "finish_reason": finish}], **more)


DONE = chunk(b"data: [DONE]\n\n")
END = {"type": "length"}


def stream(*reads: bytes, protocol: str = "sglang") -> Stream:
    """Return a stream after reads at 10, 20, 30, … ns."""
    parser = Stream(dialect(protocol))
    parser.feed([(10 * number, data) for number, data in enumerate(reads, start=1)])
    return parser


def trace(*reads: bytes, protocol: str = "sglang") -> RequestTrace:
    return stream(*reads, protocol=protocol).trace(5, now_ns=1000)


def test_a_whole_answer_has_its_tokens_times_and_counts() -> None:
    request = trace(HEAD, tokens(1), tokens(3), tokens(4, END) + DONE + LAST)
    assert request == RequestTrace(
        start_ns=0, scheduled_ns=None, event_ns=(15, 25, 35), event_tokens=(1, 2, 1), events_counted=True, end_ns=35,
        prompt_tokens=7, completion_tokens=4, cached_tokens=2, finish_reason="length", error=None,
    )  # fmt: skip


def test_an_answer_without_an_end_ends_now_and_never_before_it_began() -> None:
    unfinished = stream(HEAD, tokens(1))
    assert unfinished.ended_ns is None
    assert unfinished.trace(5, now_ns=1000).end_ns == 995
    assert unfinished.trace(5, now_ns=1).end_ns == 0
    later = unfinished.trace(5, now_ns=1000, start_ns=3, scheduled_ns=2)
    assert (later.start_ns, later.scheduled_ns) == (3, 2)


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        ((), "the connection failed: the server closed it without an answer"),
        ((HEAD, tokens(1)), "the connection failed: the server closed it in the middle of the answer"),
        ((HEAD, tokens(1), tokens(2, END) + DONE + LAST), None),
    ],
)
def test_a_closed_connection_says_how_far_the_answer_came(reads: tuple[bytes, ...], error: str | None) -> None:
    parser = stream(*reads)
    parser.close(70)
    assert parser.error == error
    assert parser.ended_ns == (30 if error is None else 70)


def test_the_first_thing_that_went_wrong_is_the_error() -> None:
    parser = stream(HEAD, tokens(2), event(error={"message": "no memory"}), LAST)
    assert parser.error == "the server sent an error after 2 tokens: no memory"
    parser.fail("another", 90)
    assert (parser.error, parser.ended_ns) == ("the server sent an error after 2 tokens: no memory", 40)


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        ((tokens(2, END), LAST), "the stream ended after 2 tokens without [DONE]"),
        ((tokens(2), DONE, LAST), "the stream ended after 2 tokens without a finish reason"),
        ((tokens(2), tokens(2, {"type": "abort", "message": "timed out"}), DONE, LAST),
         "the server aborted after 2 tokens: timed out"),
        ((tokens(2), tokens(3, {"type": "abort"}), LAST), "the server aborted after 2 tokens: no reason given"),
        ((tokens(2), chunk(b"data: {]\n"), tokens(3, END), DONE, LAST),
         "the server sent an event that cannot be read: {]"),
    ],
)  # fmt: skip
def test_what_an_answer_lacks_or_says_is_its_error(reads: tuple[bytes, ...], error: str) -> None:
    assert trace(HEAD, *reads).error == error


def test_events_after_one_that_cannot_be_read_count() -> None:
    request = trace(HEAD, tokens(2), chunk(b"data: {]\n"), tokens(3, END) + DONE + LAST)
    assert (request.event_tokens, request.finish_reason) == ((2, 1), "length")


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_a_refusal_is_quoted_up_to_200_characters_however_it_is_cut(size: int) -> None:
    """Uses characters of 4 bytes, the most in UTF-8."""
    message = "𝛼𝛽" * 150
    data = message.encode()
    pieces = [chunk(data[start : start + size]) for start in range(0, len(data), size)]
    head = b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert trace(head, *pieces, LAST).error == f"the server answered HTTP 503: {message[:200]}"


def test_bytes_after_the_end_of_an_answer_are_ignored() -> None:
    parser = stream(HEAD, tokens(1, END) + DONE + LAST, b"nonsense")
    assert (parser.error, parser.ended_ns) == (None, 20)


@pytest.mark.parametrize(
    ("total", "times", "counts"),
    [(5, (15, 25, 35), (1, 1, 3)), (3, (15, 25, 35), (1, 1, 1)), (2, (15, 25), (1, 1)), (0, (), ())],
)
def test_where_events_carry_no_count_the_last_takes_what_is_missing(
    total: int, times: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    usage = event(choices=[], usage={"prompt_tokens": 4, "completion_tokens": total})
    request = trace(HEAD, text("a"), text("b"), text("c", "length"), usage + DONE + LAST, protocol="openai")
    assert (request.event_ns, request.event_tokens, request.events_counted) == (times, counts, False)
    assert (request.prompt_tokens, request.completion_tokens) == (4, total)


def test_without_any_count_each_event_with_text_is_one_token() -> None:
    request = trace(HEAD, text(""), text("a"), text("", "length"), DONE + LAST, protocol="openai")
    assert (request.event_tokens, request.completion_tokens, request.events_counted) == ((1,), None, False)


def test_an_answer_ends_at_its_length_or_with_the_connection() -> None:
    content = b'data: {"output_ids": [1], "meta_info": {"finish_reason": {"type": "length"}}}\n\ndata: [DONE]'
    known = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    assert (stream(known).ended_ns, stream(known).error) == (10, None)
    unknown = stream(b"HTTP/1.1 200 OK\r\n\r\n" + content)
    assert unknown.ended_ns is None
    unknown.close(50)
    assert (unknown.ended_ns, unknown.error) == (50, None)
