"""Streams read from bytes: however they are split, and whatever a server omits."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.records.record import RequestTrace
from bench.speed import stream as stream_module
from bench.speed.protocols import EventFacts, dialect, middle_count, names
from bench.speed.stream import Stream
from testkit.stream_events import answer_for
from testkit.streamer import Script

PATHS = {"sglang": "/generate", "openai": "/v1/completions"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def events(protocol: str, tokens: Sequence[int], **script: Any) -> list[bytes]:
    """Return the events of an answer as the streamer sends them, the last with the finish reason."""
    asked = {
        "input_ids": [1] * 5,
        "prompt": [1] * 5,
        "sampling_params": {"max_new_tokens": sum(tokens)},
        "max_tokens": sum(tokens),
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    answer = answer_for(PATHS[protocol], asked)
    answer.begin(Script([], **script))
    chunks, total = [answer.role()], 0
    for number, count in enumerate(tokens, start=1):
        total += count
        chunks.append(answer.event(count, total, "length" if number == len(tokens) else None))
    usage = answer.usage_event(total)
    return [*chunks, *([usage] if usage else [])]


def body(chunks: Sequence[bytes], newline: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + event + newline * 2 for event in [*chunks, b"[DONE]"])


def framed(content: bytes, framing: str, cuts: Sequence[int] = ()) -> bytes:
    """Return the whole answer; ``cuts`` are the ends of its chunks."""
    if framing == "closed":
        return HEAD + b"\r\n" + content
    if framing == "length":
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content
    edges = [0, *sorted(set(cuts)), len(content)]
    parts = [content[a:b] for a, b in pairwise(edges) if a < b]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def read(protocol: str, reads: Sequence[bytes], close: bool = False) -> RequestTrace:
    """Read an answer whose n-th read arrives at n milliseconds."""
    stream = Stream(dialect(protocol))
    for number, data in enumerate(reads, start=1):
        stream.feed([(number * 1_000_000, data)])
    if close:
        stream.close((len(reads) + 1) * 1_000_000)
    return stream.trace(0, now_ns=(len(reads) + 2) * 1_000_000)


def whole(protocol: str, chunks: Sequence[bytes]) -> RequestTrace:
    return read(protocol, [framed(body(chunks), "length")])


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({point % (len(data) + 1) for point in at}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@given(
    protocol=st.sampled_from(names()),
    tokens=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    text=st.text(max_size=6),
    framing=st.sampled_from(["closed", "length", "chunked"]),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(0, 5000), max_size=8),
    reads=st.lists(st.integers(0, 5000), max_size=30),
)
def test_however_an_answer_is_cut_its_tokens_are_the_same(
    protocol: str,
    tokens: list[int],
    text: str,
    framing: str,
    newline: bytes,
    cuts: list[int],
    reads: list[int],
) -> None:
    content = body(events(protocol, tokens, text=text or "x"), newline)
    data = framed(content, framing, [c % len(content) for c in cuts])
    trace = read(protocol, cut(data, reads), close=framing == "closed")
    assert (trace.error, trace.finish_reason, trace.events_counted) == (None, "length", True)
    assert (trace.event_tokens, trace.completion_tokens) == (tuple(tokens), sum(tokens))
    assert (trace.prompt_tokens, trace.cached_tokens) == (5, 0)
    assert list(trace.event_ns) == sorted(trace.event_ns)
    assert trace.end_ns >= trace.event_ns[-1]


@pytest.mark.parametrize("protocol", names())
def test_an_event_has_the_time_of_the_read_that_brought_its_end(protocol: str) -> None:
    first, second, third = (b"data: " + event + b"\n\n" for event in events(protocol, [1, 1, 1])[1:4])
    reads = [HEAD + b"\r\n" + first[:10], first[10:] + second[:-2], b"\n\n" + third, b"data: [DONE]\n\n"]
    trace = read(protocol, reads, close=True)
    assert [at // 1_000_000 for at in trace.event_ns] == [2, 3, 3]
    assert trace.end_ns == 5_000_000


@given(
    pieces=st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=8),
    total=st.integers(0, 12),
    usage_with_finish=st.booleans(),
)
def test_events_without_counts_add_up_to_what_the_server_says(
    pieces: list[str], total: int, usage_with_finish: bool
) -> None:
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "text": piece, "finish_reason": None}]} for piece in pieces
    ]
    usage = {"usage": {"prompt_tokens": 5, "completion_tokens": total}}
    finish = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    chunks += [finish | usage] if usage_with_finish else [finish, {"choices": [], **usage}]
    trace = whole("openai", [json.dumps(event).encode() for event in chunks])
    assert (trace.error, trace.events_counted, trace.completion_tokens) == (None, False, total)
    assert sum(trace.event_tokens) == total
    assert all(tokens > 0 for tokens in trace.event_tokens)
    assert trace.event_tokens[:-1] == (1,) * (min(len(pieces), total) - 1 if total else 0)


def test_incremental_native_events_are_counted_by_the_server() -> None:
    chunks = [
        {"text": "a", "output_ids": [7, 8], "meta_info": {"finish_reason": None, "completion_tokens": 2}},
        {"text": "b", "output_ids": [9], "meta_info": {"finish_reason": {"type": "length"}, "completion_tokens": 3}},
    ]
    assert whole("sglang", [json.dumps(event).encode() for event in chunks]).event_tokens == (2, 1)


@pytest.mark.parametrize(
    ("event", "count"),
    [
        (b'{"text":"a","finish_reason":null,"completion_tokens":12}', 12),
        (b'{"completion_tokens" : 12, "finish_reason": null}', 12),
        (b'{"completion_tokens":3,"finish_reason":null,"completion_tokens":12}', 12),
        (b'{"completion_tokens":12,"finish_reason":"length"}', None),
        (b'{"completion_tokens":12}', None),
        (b'{"finish_reason":null}', None),
        (b'{"finish_reason":null,"completion_tokens":null}', None),
    ],
)
def test_the_count_in_the_middle_of_an_answer_is_read_without_parsing(event: bytes, count: int | None) -> None:
    assert middle_count(event) == count


@pytest.mark.parametrize("compact", [True, False])
def test_generated_text_is_not_taken_for_a_count(compact: bool) -> None:
    text = '"completion_tokens":99,"finish_reason":null'
    chunks = [
        {"choices": [{"text": text, "finish_reason": None}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"choices": [{"text": text, "finish_reason": "length"}], "usage": {"completion_tokens": 2}},
    ]
    separators = (",", ":") if compact else None
    trace = whole("openai", [json.dumps(event, separators=separators).encode() for event in chunks])
    assert (trace.event_tokens, trace.prompt_tokens) == ((1, 1), 1)


@pytest.mark.parametrize(
    ("protocol", "event", "error"),
    [
        ("sglang", {"error": "boom"}, "sent an error after 0 tokens: boom"),
        ("openai", {"error": {"message": "boom", "code": 400}}, "sent an error after 0 tokens: boom"),
        ("openai", {"object": "error", "message": "boom"}, "sent an error after 0 tokens: boom"),
        ("openai", {"choices": 3}, "sent an event that cannot be read"),
    ],
)
def test_an_error_event_is_reported(protocol: str, event: dict[str, Any], error: str) -> None:
    message = whole(protocol, [json.dumps(event).encode()]).error
    assert message is not None
    assert error in message


@pytest.mark.parametrize(
    ("choice", "more"),
    [
        ({"text": "a"}, True),
        ({"delta": {"content": "a"}}, True),
        ({"delta": {"reasoning_content": "a"}}, True),
        ({"text": "", "delta": {"content": "", "reasoning_content": None}}, False),
        ({}, False),
    ],
)
def test_an_event_of_any_server_with_text_carries_tokens(choice: dict[str, Any], more: bool) -> None:
    facts = dialect("openai").read_event(json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode())
    assert (facts.more, facts.tokens) == (more, 3)


def test_an_answer_that_is_not_http_is_reported() -> None:
    message = read("openai", [b"220 mail.example.org ESMTP\r\n"]).error
    assert message is not None
    assert message.startswith("the server answered with something that is not HTTP")


def test_what_comes_before_the_answer_is_passed_over() -> None:
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + framed(body(events("openai", [1, 2])), "chunked")
    assert (read("openai", [data]).error, read("openai", [data]).event_tokens) == (None, (1, 2))


def test_a_long_answer_takes_little_memory() -> None:
    chunks = events("sglang", [1] * 2000)
    content = body(chunks)
    assert len(content) > 20_000_000
    stream = Stream(dialect("sglang"))
    stream.feed([(1, HEAD + b"\r\n")])
    tracemalloc.start()
    try:
        for start in range(0, len(content), 65536):
            stream.feed([(start + 2, content[start : start + 65536])])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stream.tokens == 2000
    assert peak < 1_500_000


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_EVENT_BYTES", 2**20)
    message = read("openai", [HEAD + b"\r\ndata: "] + [b"x" * 2**16] * 20).error
    assert message == "the server sent an event of more than 1 MiB"


@pytest.mark.parametrize("protocol", names())
def test_every_protocol_asks_for_exactly_so_many_tokens(protocol: str) -> None:
    for prompt in ([1, 2, 3], "text"):
        body_text = json.dumps(dialect(protocol).request(prompt, max_new_tokens=77, model="m"))
        assert "77" in body_text
        assert '"ignore_eos": true' in body_text
        assert json.dumps(prompt) in body_text


def test_a_request_is_greedy_of_exact_length_and_asks_for_a_count_with_every_event() -> None:
    completions = {
        "prompt": [1, 2],
        "max_tokens": 7,
        "min_tokens": 7,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    assert dialect("openai").request([1, 2], max_new_tokens=7, model="") == completions
    assert dialect("openai").request([1, 2], max_new_tokens=7, model="m") == {"model": "m", **completions}
    sampling = {"max_new_tokens": 7, "temperature": 0, "ignore_eos": True}
    generate = {"sampling_params": sampling, "stream": True}
    assert dialect("sglang").request([1, 2], max_new_tokens=7, model="m") == {"input_ids": [1, 2], **generate}
    assert dialect("sglang").request("a b", max_new_tokens=7, model="m") == {"text": "a b", **generate}


def test_an_unknown_protocol_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no protocol 'grpc'; known are openai, sglang"):
        dialect("grpc")


def test_later_facts_overwrite_every_field_that_they_report() -> None:
    first = {field.name: f"first {field.name}" for field in fields(EventFacts)}
    second = {field.name: f"second {field.name}" for field in fields(EventFacts)}
    facts = EventFacts(**first)  # type: ignore[arg-type]
    facts.update(EventFacts())
    assert asdict(facts) == first | {"more": False}
    facts.update(EventFacts(**second))  # type: ignore[arg-type]
    assert asdict(facts) == second
