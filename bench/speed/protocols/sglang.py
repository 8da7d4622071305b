"""SGLang's native API, which the reference server implements too.

Its stream repeats the complete answer in every event, unless the server was started with
``--incremental-streaming-output``; the counts in ``meta_info`` are running totals either way.
Source: sglang 0.5.23, ``srt/managers/tokenizer_manager.py`` and ``srt/entrypoints/http_server.py``.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from bench.speed.protocols import EventFacts, middle_count

PATH = "/generate"
FLUSH_PATH: str | None = "/flush_cache"
HEALTH_PATH: str | None = "/health_generate"
PROVES_CACHE = True
UNPROVEN: tuple[str, ...] = ()


class _Finish(BaseModel):
    type: str
    message: str | None = None


class _Meta(BaseModel):
    finish_reason: _Finish | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class _Fault(BaseModel):
    message: str


class _Event(BaseModel):
    """The fields of an event that are read; SGLang sends more."""

    output_ids: tuple[int, ...] = ()
    meta_info: _Meta = _Meta()
    error: _Fault | str | None = None


def request(prompt: Sequence[int] | str, *, max_new_tokens: int, model: str) -> dict[str, Any]:
    """Return the body that requests exactly ``max_new_tokens`` greedy tokens, streamed."""
    return {
        "text" if isinstance(prompt, str) else "input_ids": prompt,
        "sampling_params": {"max_new_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True},
        "stream": True,
    }


running_count = middle_count


def read_event(event: bytes) -> EventFacts:
    """Return everything that an event reports.

    Raises:
        ValueError: the event is not valid in SGLang's API.
    """
    parsed = _Event.model_validate_json(event)
    meta, ids = parsed.meta_info, parsed.output_ids
    aborted = meta.finish_reason is not None and meta.finish_reason.type == "abort"
    return EventFacts(
        tokens=len(ids) if meta.completion_tokens is None and ids else meta.completion_tokens,
        more=bool(ids),
        prompt_tokens=meta.prompt_tokens,
        completion_tokens=meta.completion_tokens,
        cached_tokens=meta.cached_tokens,
        finish_reason=meta.finish_reason.type if meta.finish_reason else None,
        error=parsed.error.message if isinstance(parsed.error, _Fault) else parsed.error,
        aborted=(meta.finish_reason.message or "no reason given") if aborted and meta.finish_reason else None,
    )
