"""Answers of a server: fetching them, keeping them as fixtures, and their form."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.asked import Asked
from tests.support.paths import FIXTURES

FOLDER = FIXTURES / "sglang"
SCHEMA = "schema.json"
DONE = "[DONE]"
LONGEST_LIST, LONGEST_TEXT = 40, 400
"""Longer values are truncated in fixtures."""
KEPT = {
    "/server_info": (
        "version", "model_path", "served_model_name", "device", "dtype", "quantization", "kv_cache_dtype", "host",
        "port", "context_length", "max_total_num_tokens", "max_req_input_len", "max_running_requests",
        "mem_fraction_static", "max_total_tokens", "chunked_prefill_size", "enable_mixed_chunk", "attention_backend",
        "disable_overlap_schedule", "tp_size", "dp_size", "pp_size", "ep_size", "random_seed", "skip_tokenizer_init",
        "incremental_streaming_output", "enable_metrics", "api_key", "startup_time",
    ),
    "/model_info": (
        "model_path", "served_model_name", "tokenizer_path", "is_generation", "model_type", "architectures",
        "weight_version",
    ),
}  # fmt: skip
"""By path: the fields to keep of an answer with hundreds of them."""
FLUSH_S = 10.0
"""How long a server may refuse to flush its cache."""
PATHS = re.compile(r"(?<![\w/.:])/(?:[\w.+-]+/)+([\w.+-]+)")
PLAIN_LIST = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")
KINDS = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
Form = dict[str, Any]
"""``status``, ``content_type`` and ``fields``: the JSON types seen at each path."""


@dataclass(frozen=True)
class Answer:
    """A server's answer to one request."""

    status: int
    content_type: str | None
    text: str

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream of server-sent events."""
        return "event-stream" in (self.content_type or "")

    def events(self) -> list[str]:
        """Return the payload of each event except the closing one.

        Raises:
            ValueError: the stream is not framed as SGLang frames it.
        """
        *events, done, rest = self.text.split("\n\n")
        if done != f"data: {DONE}" or rest or not all(event.startswith("data: ") for event in events):
            raise ValueError(f"not a stream of events that ends with {DONE}: {self.text[-200:]!r}")
        return [event.removeprefix("data: ") for event in events]

    def values(self) -> list[Any]:
        """Return the JSON of each event, or of the whole answer; an empty list if it is not JSON."""
        if self.is_stream:
            return [json.loads(event) for event in self.events()]
        return [json.loads(self.text)] if "json" in (self.content_type or "") else []


Send = Callable[[Asked], Answer]


def sender(base_url: str, api_key: str | None = None, *, flushes: bool = True) -> Send:
    """Return a function that sends a request to a server, over a new connection, and returns the answer.

    Args:
        base_url: address of the server.
        api_key: key that the server requires.
        flushes: whether the server's cache is flushed before each request.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}

    def once(method: str, path: str, body: Any) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{base_url}{path}", data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as got:
                return Answer(got.status, got.headers["Content-Type"], got.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers["Content-Type"], error.read().decode())

    def send(asked: Asked) -> Answer:
        if flushes:
            _flush(once)
        if asked.warmed:
            once(asked.method, asked.path, asked.body)
        return once(asked.method, asked.path, asked.body)

    return send


def _flush(once: Callable[[str, str, Any], Answer]) -> None:
    """Flush the cache. The server refuses shortly after an answer, while its request still counts as running."""
    deadline = time.monotonic() + FLUSH_S
    while (answer := once("POST", "/flush_cache", None)).status != 200:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def form(answer: Answer) -> Form:
    """Return the form of an answer."""
    types: dict[str, set[str]] = {}
    for value in answer.values():
        _collect(value, "", types)
    types.pop("", None)
    kind = answer.content_type and answer.content_type.replace(" ", "")
    fields = {path: sorted(kinds) for path, kinds in sorted(types.items())}
    return {"status": answer.status, "content_type": kind, "fields": fields}


def _collect(value: Any, path: str, into: dict[str, set[str]]) -> None:
    """Note the JSON type of ``value`` and of everything inside it, by path."""
    into.setdefault(path, set()).add(KINDS[type(value)])
    if isinstance(value, dict):
        for key, inner in value.items():
            _collect(inner, f"{path}.{key}".lstrip("."), into)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, f"{path}[]", into)


def trimmed(asked: Asked, answer: Answer) -> Answer:
    """Reduce an answer with hundreds of fields to those in KEPT; return any other unchanged."""
    kept = KEPT.get(asked.path, ())
    if not kept or answer.status != 200:
        return answer
    whole = answer.values()[0]
    return Answer(answer.status, answer.content_type, json.dumps({name: whole[name] for name in kept if name in whole}))


def to_fixture(asked: Asked, answer: Answer, secrets: Iterable[str]) -> dict[str, Any]:
    """Return a request and its answer as a fixture: without paths, ``secrets`` or ports, long values truncated.

    The events of a stream are kept complete, so that a client can be tested with them.
    """
    answer = trimmed(asked, answer)
    clean = Answer(answer.status, answer.content_type, _anonymous(answer.text, secrets))
    body: dict[str, Any] = {"text": _short(clean.text)}
    if clean.is_stream:
        body = {"events": clean.events()}
    elif clean.values():
        body = {"json": _short(clean.values()[0])}
    return {
        "request": {"method": asked.method, "path": asked.path, "body": _short(asked.body), "warmed": asked.warmed},
        "status": answer.status,
        "content_type": answer.content_type,
        **body,
    }


def _anonymous(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return PATHS.sub(r"/…/\1", text)


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        if len(value) > LONGEST_LIST and all(inner == value[0] for inner in value):
            return f"{len(value)} times {value[0]}"
        return [_short(inner) for inner in value[:LONGEST_LIST]]
    return value


def read_fixture(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Return a kept request and answer."""
    fixture: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return fixture


def recorded_answer(name: str) -> Answer:
    """Return the answer of a fixture as the server sent it, except for truncated values."""
    kept = read_fixture(name)
    if "events" in kept:
        text = "".join(f"data: {event}\n\n" for event in [*kept["events"], DONE])
    else:
        text = json.dumps(kept["json"]) if "json" in kept else kept["text"]
    return Answer(kept["status"], kept["content_type"], text)


def read_schema() -> dict[str, Form]:
    """Return the recorded form of each answer."""
    schema: dict[str, Form] = json.loads((FOLDER / SCHEMA).read_text())
    return schema


def write_json(file: Path, value: Any) -> None:
    """Write readable JSON: lists of plain values in one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    flat = PLAIN_LIST.sub(lambda match: "[" + re.sub(r",\n\s+", ", ", match[1]) + "]", text)
    assert json.loads(flat) == value
    file.write_text(flat + "\n")
