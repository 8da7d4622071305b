"""The check of a server's answers: against the recorded form, and against what the request asked for."""

from collections.abc import Callable, Set
from typing import Any

from tests.contract.answers import Answer, Form, form, trimmed
from tests.contract.asked import N_IDS, SCORED_FROM, Asked

PARTLY = {
    "server_info": {
        "version",
        "max_total_num_tokens",
        "context_length",
        "device",
        "dtype",
        "model_path",
        "host",
        "port",
    },
    "model_info": {"model_path", "is_generation", "model_type", "architectures"},
}
"""Answers with hundreds of fields: those that a server must report. Any other has the recorded type."""
SGLANG_ONLY = frozenset({
    "api_server_dispatch_finish_ts", "cached_tokens_details", "decode_throughput", "dp_rank", "first_token_latency",
    "forward_entry_time", "num_retractions", "prefill_finished_time", "queue_time", "reasoning_tokens",
    "request_finished_ts", "request_received_ts", "response_sent_to_client_ts", "storage_prefetch_wait",
    "storage_staging_wait", "weight_version", "weight_versions",
})  # fmt: skip
"""Fields of ``meta_info`` that only the real server reports and that nothing in the suite reads."""

QUIRKS = {"score_continuation": frozenset({"output_top_logprobs"})}
"""By request: fields that only the real server fills. It returns the likeliest token even if none is requested."""


def differences(
    name: str, asked: Asked, answer: Answer, recorded: Form, *, without: Set[str] = frozenset()
) -> list[str]:
    """Return what is wrong with an answer, one line for each fault; an empty list if nothing is.

    Args:
        name: name of the request.
        asked: the request.
        answer: the server's answer.
        recorded: the form of the real server's answer.
        without: names of fields in which this server may differ.
    """
    received = form(trimmed(asked, answer))
    wrong = [
        f"{what}: {received[what]}, recorded {recorded[what]}"
        for what in ("status", "content_type")
        if recorded[what] is not None and _plain(received[what]) != _plain(recorded[what])
    ]
    if not wrong:
        wrong += _fields(name, received["fields"], recorded["fields"], without)
    if not wrong and name in MEANING:
        wrong += MEANING[name](asked.body, answer.values())
    return [f"{name}: {text}" for text in wrong]


def _plain(value: Any) -> Any:
    """Return a content type without its parameters: JSON is UTF-8 with or without a charset."""
    return value.partition(";")[0] if isinstance(value, str) else value


def _fields(name: str, received: dict[str, list[str]], recorded: dict[str, list[str]], without: Set[str]) -> list[str]:
    wanted, received = _left(recorded, without), _left(received, without)
    if name in PARTLY:
        missing = PARTLY[name] - received.keys()
        # The recording shows options that were not set as null.
        other = {
            path: kinds
            for path, kinds in wanted.items()
            if path in received and "null" not in (*kinds, *received[path]) and received[path] != kinds
        }
        return [f"{path} is missing" for path in sorted(missing)] + [
            f"{path} is {received[path]}, recorded {kinds}" for path, kinds in other.items()
        ]
    return (
        [f"{path} is missing, recorded {wanted[path]}" for path in sorted(wanted.keys() - received.keys())]
        + [f"{path} was never recorded" for path in sorted(received.keys() - wanted.keys())]
        + [
            f"{path} is {received[path]}, recorded {wanted[path]}"
            for path in sorted(received.keys() & wanted.keys())
            if received[path] != wanted[path]
        ]
    )


def _left(fields: dict[str, list[str]], without: Set[str]) -> dict[str, list[str]]:
    return {path: kinds for path, kinds in fields.items() if without.isdisjoint(path.replace("[]", "").split("."))}


def _unless(*facts: tuple[bool, str]) -> list[str]:
    return [text for holds, text in facts if not holds]


def _counts(body: Any, value: Any, *, n_prompt: int = N_IDS, cached: int = 0) -> list[str]:
    """Return what is wrong with the counts of a whole answer."""
    meta, n = value["meta_info"], body["sampling_params"]["max_new_tokens"]
    return _unless(
        (meta["prompt_tokens"] == n_prompt, f"prompt_tokens is {meta['prompt_tokens']}, sent were {n_prompt}"),
        (meta["completion_tokens"] == n, f"completion_tokens is {meta['completion_tokens']}, asked for were {n}"),
        (len(value["output_ids"]) == n, f"{len(value['output_ids'])} output_ids, asked for were {n}"),
        (meta["cached_tokens"] == cached, f"cached_tokens is {meta['cached_tokens']}, right is {cached}"),
        (meta["finish_reason"] == {"type": "length", "length": n}, f"finish_reason is {meta['finish_reason']}"),
    )


def _generate(body: Any, values: list[Any]) -> list[str]:
    return _counts(body, values[0], n_prompt=len(body["input_ids"]))


def _cached(body: Any, values: list[Any]) -> list[str]:
    # The last prompt token is always computed again, even if it is cached.
    return _counts(body, values[0], cached=N_IDS - 1)


def _batch(body: Any, values: list[Any]) -> list[str]:
    pairs = zip(body["input_ids"], values[0], strict=True)
    return [text for ids, value in pairs for text in _counts(body, value, n_prompt=len(ids))]


def _stream(body: Any, values: list[Any]) -> list[str]:
    last = values[-1]
    counts = [value["meta_info"]["completion_tokens"] for value in values]
    return _counts(body, last) + _unless(
        (counts == sorted(set(counts)), f"running counts are {counts}"),
        (
            all(value["output_ids"] == last["output_ids"][: len(value["output_ids"])] for value in values),
            "not cumulative",
        ),
        (all(value["meta_info"]["finish_reason"] is None for value in values[:-1]), "a reason before the end"),
    )


def _incremental(body: Any, values: list[Any]) -> list[str]:
    n = body["sampling_params"]["max_new_tokens"]
    counts = [value["meta_info"]["completion_tokens"] for value in values]
    own = [len(value["output_ids"]) for value in values]
    return _unless(
        (counts == [sum(own[: place + 1]) for place in range(len(own))], f"counts {counts}, ids per event {own}"),
        (counts[-1] == n, f"the last count is {counts[-1]}, asked for were {n}"),
    )


def _stop(body: Any, values: list[Any]) -> list[str]:
    reason = values[0]["meta_info"]["finish_reason"]
    stops = body["sampling_params"]["stop"]
    return _unless(
        (reason["type"] == "stop" and reason["matched"] in stops, f"finish_reason is {reason}"),
        (reason.get("matched", "\0") not in values[0]["text"], "the stop text is part of the answer"),
    )


def _choices(body: Any, values: list[Any]) -> list[str]:
    meta = values[0]["meta_info"]
    entries = meta["output_token_ids_logprobs"]
    return _cached(body, values) + _unless(
        (len(entries) == 1, f"{len(entries)} positions of choices, one token was generated"),
        ([entry[1] for entry in entries[0]] == body["token_ids_logprob"], "choices in another order"),
        (all(entry[0] < 0 for entry in entries[0]), "a log-probability that is not negative"),
        (meta["input_token_logprobs"] == [], "log-probabilities of the prompt, which were not requested"),
    )


def _continuation(body: Any, values: list[Any]) -> list[str]:
    meta = values[0]["meta_info"]
    entries, tops = meta["input_token_logprobs"], meta["input_top_logprobs"]
    return _counts(body, values[0]) + _unless(
        ([entry[1] for entry in entries] == body["input_ids"][SCORED_FROM:], "other positions were scored"),
        (entries[0][0] is None and all(entry[0] < 0 for entry in entries[1:]), f"log-probabilities {entries}"),
        (len(tops) == len(entries) and tops[0] is None, f"top log-probabilities {tops}"),
    )


def _usage(body: Any, usage: Any) -> list[str]:
    right = {"prompt_tokens": N_IDS, "completion_tokens": body["max_tokens"]}
    return [f"usage.{name} is {usage[name]}, right is {n}" for name, n in right.items() if usage[name] != n]


def _completion(body: Any, values: list[Any]) -> list[str]:
    return _usage(body, values[0]["usage"])


def _completion_stream(body: Any, values: list[Any]) -> list[str]:
    counts = [value["usage"]["completion_tokens"] for value in values]
    return _usage(body, values[-1]["usage"]) + _unless((counts == sorted(counts), f"running counts are {counts}"))


MEANING: dict[str, Callable[[Any, list[Any]], list[str]]] = {
    "generate": _generate,
    "generate_cached": _cached,
    "generate_batch": _batch,
    "generate_one_input_token": _generate,
    "generate_one_output_token": _stream,
    "generate_stop": _stop,
    "generate_stream": _stream,
    "generate_stream_incremental": _incremental,
    "score_choices": _choices,
    "score_continuation": _continuation,
    "score_stream": _stream,
    "score_stream_incremental": _incremental,
    "completions": _completion,
    "completions_stream": _completion_stream,
}
"""The check of an answer's values, for both servers. Answers without one are checked for their form only."""
