"""The reference server's answers, field by field, against those recorded from a real SGLang 0.5.23."""

# ruff: noqa: F401, F811 — fixtures are imported by name

import json
from pathlib import Path
from string import ascii_letters
from typing import Any

import pytest

from tests.serving import CONTEXT, Server, checkpoint, prompt, running, server

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "sglang" / "schema.json").read_text())
GREEDY = {"temperature": 0, "ignore_eos": True}
IDS = prompt(0, 40)

SGLANG_ONLY = {
    "api_server_dispatch_finish_ts", "cached_tokens_details", "decode_throughput", "dp_rank", "first_token_latency",
    "forward_entry_time", "num_retractions", "prefill_finished_time", "queue_time", "reasoning_tokens",
    "request_finished_ts", "request_received_ts", "response_sent_to_client_ts", "storage_prefetch_wait",
    "storage_staging_wait", "weight_version", "weight_versions",
}  # fmt: skip
"""Fields of ``meta_info`` that nothing in the suite reads."""

REQUESTS: dict[str, tuple[str, str, Any]] = {
    "generate": ("POST", "/generate", {"input_ids": IDS, "sampling_params": {"max_new_tokens": 4, **GREEDY}}),
    "generate_batch": (
        "POST", "/generate", {"input_ids": [IDS, IDS[:7]], "sampling_params": {"max_new_tokens": 2, **GREEDY}},
    ),
    "generate_one_input_token": (
        "POST", "/generate", {"input_ids": IDS[:1], "sampling_params": {"max_new_tokens": 2, **GREEDY}},
    ),
    "generate_stop": (
        "POST", "/generate",
        {"text": "text", "sampling_params": {"max_new_tokens": 500, "stop": list(ascii_letters), **GREEDY}},
    ),
    "generate_stream": (
        "POST", "/generate", {"input_ids": IDS, "sampling_params": {"max_new_tokens": 5, **GREEDY}, "stream": True},
    ),
    "score_choices": (
        "POST", "/generate",
        {"input_ids": IDS, "sampling_params": {"max_new_tokens": 1, **GREEDY}, "return_logprob": True,
         "token_ids_logprob": [30, 31, 32, 33], "logprob_start_len": -1},
    ),
    "score_continuation": (
        "POST", "/generate",
        {"input_ids": IDS, "sampling_params": {"max_new_tokens": 0, **GREEDY}, "return_logprob": True,
         "logprob_start_len": 35},
    ),
    "score_stream": (
        "POST", "/generate",
        {"input_ids": IDS, "sampling_params": {"max_new_tokens": 2, **GREEDY}, "return_logprob": True,
         "top_logprobs_num": 2, "stream": True},
    ),
    "error_bad_json": ("POST", "/generate", "nonsense"),
    "error_bad_param": ("POST", "/generate", {"input_ids": IDS, "sampling_params": {"max_new_tokens": -3}}),
    "error_empty": ("POST", "/generate", {"input_ids": [], "sampling_params": {"max_new_tokens": 1, **GREEDY}}),
    "error_too_long": ("POST", "/generate", {"input_ids": [1] * (CONTEXT + 1)}),
    "error_too_long_stream": ("POST", "/generate", {"input_ids": [1] * (CONTEXT + 1), "stream": True}),
    "flush_cache": ("POST", "/flush_cache", None),
    "health": ("GET", "/health", None),
    "health_generate": ("GET", "/health_generate", None),
    "model_info": ("GET", "/model_info", None),
    "not_found": ("GET", "/nope", None),
    "server_info": ("GET", "/server_info", None),
}  # fmt: skip

KINDS = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def collect(value: Any, path: str, into: dict[str, set[str]]) -> None:
    """Note the JSON type of ``value`` and of everything inside it, by path."""
    into.setdefault(path, set()).add(KINDS[type(value)])
    if isinstance(value, dict):
        for key, inner in value.items():
            collect(inner, f"{path}.{key}".lstrip("."), into)
    elif isinstance(value, list):
        for inner in value:
            collect(inner, f"{path}[]", into)


def test_every_recording_is_asked_for() -> None:
    assert REQUESTS.keys() == SCHEMA.keys()


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_have_the_form_of_sglang(server: Server, name: str) -> None:
    method, path, body = REQUESTS[name]
    recorded = SCHEMA[name]
    status, content_type, answer = server.send(path, None if body is None else json.dumps(body).encode(), method)
    assert status == recorded["status"], answer
    if recorded["content_type"] is None:
        return
    assert content_type.replace(" ", "").startswith(recorded["content_type"].partition(";")[0])
    text = answer.decode()
    if "event-stream" in content_type:
        assert text.endswith("\n\ndata: [DONE]\n\n")
        values = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]
    else:
        values = [json.loads(text)]
    found: dict[str, set[str]] = {}
    for value in values:
        collect(value, "", found)
    del found[""]
    wanted = {path: set(kinds) for path, kinds in recorded["fields"].items()}
    if name == "server_info":
        # The recording shows unset options as null where the reference server tells what it resolved them to.
        assert found.keys() >= wanted.keys()
        assert all(found[path] == kinds or kinds == {"null"} for path, kinds in wanted.items())
        return
    assert found == {path: kinds for path, kinds in wanted.items() if not _is_sglang_only(path)}


def _is_sglang_only(path: str) -> bool:
    return not SGLANG_ONLY.isdisjoint(path.replace("[]", "").split("."))
