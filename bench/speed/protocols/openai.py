"""OpenAI's ``/v1/completions`` with token ids as the prompt, as in vLLM, SGLang, TensorRT-LLM, llama.cpp and Ollama.

``ignore_eos``, ``min_tokens`` and ``continuous_usage_stats`` are vLLM's extensions, which SGLang adopted and, except
for the last one, TensorRT-LLM; llama.cpp has the first; other servers ignore them. Where events carry no ``usage``,
each event with text counts as one token.
Source: https://platform.openai.com/docs/api-reference/completions, vllm 0.32.0 ``entrypoints/openai``.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from bench.speed.protocols import EventFacts, middle_count

PATH = "/v1/completions"
FLUSH_PATH: str | None = None
HEALTH_PATH: str | None = None
PROVES_CACHE = False
UNPROVEN: tuple[str, ...] = (
    "the server's prefix cache cannot be emptied between trials; only fresh prompts keep it from being used",
)


class _Delta(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(BaseModel):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Fault(BaseModel):
    message: str


class _Event(BaseModel):
    """The fields of an event that are read; servers send more."""

    object: str | None = None
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    error: _Fault | str | None = None
    message: str | None = None
    """Message of an event of the kind ``error``, as older servers send it."""


def request(prompt: Sequence[int] | str, *, max_new_tokens: int, model: str) -> dict[str, Any]:
    """Return the body that requests exactly ``max_new_tokens`` greedy tokens, streamed.

    Args:
        prompt: token ids, or text for a server that refuses ids.
        max_new_tokens: length of the answer; end-of-text tokens do not end it earlier.
        model: name of the served model; empty for a server with a single model that needs no name.
    """
    return {
        **({"model": model} if model else {}),
        "prompt": prompt,
        "max_tokens": max_new_tokens,
        "min_tokens": max_new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


running_count = middle_count


def read_event(event: bytes) -> EventFacts:
    """Return everything that an event reports; the last event, which has only usage, carries no tokens.

    Raises:
        ValueError: the event is not valid in this API.
    """
    parsed = _Event.model_validate_json(event)
    usage = parsed.usage or _Usage()
    choice = parsed.choices[0] if parsed.choices else _Choice()
    delta = choice.delta or _Delta()
    error = parsed.error.message if isinstance(parsed.error, _Fault) else parsed.error
    return EventFacts(
        tokens=usage.completion_tokens if parsed.choices else None,
        more=bool(choice.text or delta.content or delta.reasoning_content),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None,
        finish_reason=choice.finish_reason,
        error=(parsed.message or "no reason given") if error is None and parsed.object == "error" else error,
        aborted="no reason given" if choice.finish_reason in ("abort", "error") else None,
    )
