"""SGLang's native API, which the reference server implements too: one request answers any question.

Choices are requested as one new token with ``token_ids_logprob``, so that the full context may come from the prefix
cache. A continuation is part of the prompt; its log-probabilities are requested from the last token of its context on,
and everything before may be cached.
Source: sglang 0.5.23, ``srt/managers/io_struct.py`` and ``srt/managers/tokenizer_manager.py``.
"""

from collections.abc import Sequence
from typing import Any

from bench.accuracy.questions import Answer, Question, Sampling, finite
from bench.errors import AccuracyError

PATH = "/generate"
MAX_STOPS: int | None = 32
"""SGLang's ``MAX_STOP_COUNT``."""


def requests(question: Question, model: str) -> list[dict[str, Any]]:
    """Return the one request that answers a question."""
    if question.sampling:
        return [{"input_ids": question.context, "sampling_params": _sampling(question.sampling)}]
    body = {"input_ids": question.prompt, "return_logprob": True}
    params = {"max_new_tokens": 1 if question.choices else 0, "temperature": 0, "ignore_eos": True}
    if question.choices:
        more: dict[str, Any] = {"token_ids_logprob": question.choices, "logprob_start_len": -1}
    else:
        more = {"top_logprobs_num": 1, "logprob_start_len": len(question.context) - 1}
    return [{**body, "sampling_params": params, **more}]


def _sampling(sampling: Sampling) -> dict[str, Any]:
    params: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        params |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p}
        params |= {} if sampling.seed is None else {"sampling_seed": sampling.seed}
    return {**params, "stop": sampling.stop} if sampling.stop else params


def refusal(question: Question, reason: str) -> str | None:
    """Return None, because a refusal only applies to one question."""
    return None


def read(question: Question, answers: Sequence[dict[str, Any]]) -> Answer:
    """Return the answer to a question."""
    (answer,) = answers
    meta = answer["meta_info"]
    if question.sampling:
        return Answer(
            text=answer["text"],
            cut=meta["finish_reason"]["type"] == "length",
            cached_tokens=meta.get("cached_tokens"),
            output_tokens=meta.get("completion_tokens"),
        )
    if question.choices:
        (row,) = meta["output_token_ids_logprobs"]
        by_token = {token: finite(logprob) for logprob, token, _ in row}
        (output,) = answer["output_ids"]
        logprobs = tuple(by_token[token] for token in question.choices)
        greedy = tuple(token == output for token in question.choices)
        return Answer(logprobs=logprobs, greedy=greedy, cached_tokens=meta.get("cached_tokens"))
    n = len(question.continuation)
    entries, tops = meta["input_token_logprobs"][-n:], meta["input_top_logprobs"][-n:]
    if tuple(token for _, token, _ in entries) != question.continuation:
        raise AccuracyError("the server scored tokens other than the requested ones")
    best = all(top[0][1] == token for top, token in zip(tops, question.continuation, strict=True))
    total = sum(finite(logprob) for logprob, _, _ in entries)
    return Answer(logprobs=(total,), greedy=(best,), cached_tokens=meta.get("cached_tokens"))
