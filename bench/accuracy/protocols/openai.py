"""OpenAI's ``/v1/completions`` with token ids as the prompt, and the fields that vLLM adds to it.

Choices are requested as one new token with ``logprob_token_ids``, so that the full context may come from the prefix
cache. A continuation is echoed with its log-probabilities except for its last token, which is requested like a choice:
then even the longest prompt leaves room for the new token that vLLM requires. vLLM uses no prefix cache for an echo.

Other servers only answer questions that generate text: llama.cpp refuses ``echo``, TensorRT-LLM refuses unknown fields,
SGLang has log-probabilities of given tokens only in its native API, and Ollama has neither them nor token ids. The
first question distinguishes them from vLLM, by what they refuse or leave out.
Source: vllm 0.32.0, ``entrypoints/openai/completion/protocol.py`` and ``serving.py``, ``v1/sample/sampler.py``.
"""

import math
from collections.abc import Sequence
from typing import Any

from bench.accuracy.questions import Answer, Question, Sampling, finite
from bench.errors import AccuracyError

PATH = "/v1/completions"
MAX_STOPS: int | None = 4
"""The limit of OpenAI, and of vLLM unless VLLM_MAX_STOP_STRINGS raises it."""
NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Sent explicitly, because vLLM and SGLang otherwise take their defaults from a checkpoint's generation_config.json."""
ID = "token_id:"
"""Prefix of tokens with ``return_tokens_as_token_ids``, needed because different tokens can have the same text."""
MINUS_INFINITY = -9999.0
"""vLLM's value for minus infinity."""
ROUNDING = 0.01
"""How far above 0 rounding may move a log-probability; logits are far above."""
INSTEAD = (
    "log-probabilities of given tokens need vLLM's logprob_token_ids (0.32 has it); use engine.protocol=sglang for an "
    "SGLang server, or tasks that generate text, such as accuracy.tasks=[mini-ifeval]"
)


def requests(question: Question, model: str) -> list[dict[str, Any]]:
    """Return the one request that answers a question."""
    body = {**({"model": model} if model else {}), "prompt": question.context, **NEUTRAL}
    if question.sampling:
        return [{**body, **_sampling(question.sampling)}]
    body |= {"max_tokens": 1, "temperature": 0, "logprobs": 1, "return_tokens_as_token_ids": True}
    if question.choices:
        return [{**body, "logprob_token_ids": question.choices}]
    return [{**body, "prompt": question.prompt[:-1], "echo": True, "logprob_token_ids": question.prompt[-1:]}]


def _sampling(sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "top_k": max(0, sampling.top_k), "min_p": sampling.min_p}
        body |= {} if sampling.seed is None else {"seed": sampling.seed}
    return {**body, "stop": sampling.stop} if sampling.stop else body


def refusal(question: Question, reason: str) -> str | None:
    """Return an error message if a refusal applies to all questions of this kind; None if it may be only for this one.

    Args:
        question: the question.
        reason: the server's error.
    """
    if "not JSON compliant" in reason:
        return f"the server's log-probabilities are not finite numbers, so it cannot send them ({reason})"
    if question.sampling is None and any(word in reason for word in ("echo", "logprob", "token_id")):
        return f"the server returns no log-probabilities ({reason}): {INSTEAD}"
    return None


def read(question: Question, answers: Sequence[dict[str, Any]]) -> Answer:
    """Return the answer to a question."""
    (answer,) = answers
    if "error" in answer:
        raise ValueError(f"error instead of an answer: {answer['error']}")
    (choice,) = answer["choices"]
    usage = answer["usage"]
    n_sent = len(question.prompt) - bool(question.continuation)
    if usage["prompt_tokens"] != n_sent:
        raise AccuracyError(f"the server read {usage['prompt_tokens']} tokens of a prompt that has {n_sent}")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if question.sampling:
        text, reason = choice["text"], choice["finish_reason"]
        if not isinstance(text, str) or reason not in ("stop", "length"):
            raise ValueError(f"the answer ended with '{reason}'")
        return Answer(text=text, cut=reason == "length", cached_tokens=cached, output_tokens=usage["completion_tokens"])
    rows = _rows(question, choice.get("logprobs"), answer.get("system_fingerprint") or "this server")
    if question.choices:
        (row,) = rows
        logprobs = tuple(row[token] for token in question.choices)
        greedy = tuple(token == _likeliest(row) for token in question.choices)
    else:
        pairs = list(zip(question.continuation, rows, strict=True))
        logprobs = (sum(row[token] for token, row in pairs),)
        greedy = (all(token == _likeliest(row) for token, row in pairs),)
    return Answer(logprobs=logprobs, greedy=greedy, cached_tokens=cached)


def _rows(question: Question, logprobs: dict[str, Any] | None, who: str) -> list[dict[int, float]]:
    """Return {token: log-probability} for each requested position, with every requested token."""
    if not logprobs or not all(str(name).startswith(ID) for name in logprobs["tokens"]):
        raise AccuracyError(f"{who} returns no log-probabilities by token id: {INSTEAD}")
    echoed, tops = tuple(map(_token, logprobs["tokens"][:-1])), logprobs["top_logprobs"]
    if echoed != (question.prompt[:-1] if question.continuation else ()) or len(tops) != len(logprobs["tokens"]):
        raise AccuracyError(f"{who} scored tokens other than the requested ones: {INSTEAD}")
    n = max(1, len(question.continuation))
    rows = [{_token(name): _nats(logprob) for name, logprob in row.items()} for row in tops[-n:]]
    candidates = [question.choices] if question.choices else [(token,) for token in question.continuation]
    if not all(row.keys() >= set(tokens) for row, tokens in zip(rows, candidates, strict=True)):
        raise AccuracyError(f"{who} leaves out requested tokens: {INSTEAD}")
    return rows


def _token(name: str) -> int:
    return int(name.removeprefix(ID))


def _nats(logprob: float | None) -> float:
    if logprob is not None and logprob > ROUNDING:
        raise AccuracyError(
            f"the server returned {logprob} as a log-probability, so it sends logits: start it without --logprobs-mode"
        )
    return finite(-math.inf if logprob is not None and logprob <= MINUS_INFINITY else logprob)


def _likeliest(row: dict[int, float]) -> int:
    """Return the token that greedy decoding would choose; the first one if several are equal."""
    return max(row, key=row.__getitem__)
