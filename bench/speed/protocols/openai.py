"""OpenAI's ``/v1/completions`` with token ids as prompt, as vLLM, SGLang, TensorRT-LLM, llama.cpp and Ollama speak it.

``ignore_eos``, ``min_tokens`` and ``continuous_usage_stats`` are extensions of vLLM's that SGLang and, but for the
last, TensorRT-LLM took over; llama.cpp knows the first; a server that knows none of them ignores them. Where events
carry no ``usage``, one that carries text is taken for one token.
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
    "the server's prefix cache cannot be emptied between trials; only that every prompt is new keeps it out",
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
    """What is read of an event; servers send more."""

    object: str | None = None
    choices: tuple[_Choice, ...] | None = None
    usage: _Usage | None = None
    error: _Fault | str | None = None
    message: str | None = None
    """What an event of the kind ``error`` says, as older servers sent it."""


def request(prompt: Sequence[int] | str, *, max_new_tokens: int, model: str) -> dict[str, Any]:
    """Return the body that asks for exactly ``max_new_tokens`` greedy tokens, streamed.

    Args:
        prompt: token ids, or text for a server that refuses ids.
        max_new_tokens: end-of-text tokens do not stop it earlier.
        model: the name it is served under; empty for a server that serves but one and asks for no name.
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
    """Return everything that an event tells; the last one, which carries only usage, brings no tokens.

    Raises:
        ValueError: it is not what this API sends.
    """
    seen = _Event.model_validate_json(event)
    usage = seen.usage or _Usage()
    choice = seen.choices[0] if seen.choices else _Choice()
    delta = choice.delta or _Delta()
    error = seen.error.message if isinstance(seen.error, _Fault) else seen.error
    return EventFacts(
        tokens=usage.completion_tokens if seen.choices else None,
        more=bool(choice.text or delta.content or delta.reasoning_content),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None,
        finish_reason=choice.finish_reason,
        error=(seen.message or "no reason given") if error is None and seen.object == "error" else error,
        aborted="no reason given" if choice.finish_reason in ("abort", "error") else None,
    )
