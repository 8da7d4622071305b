"""Requests and streams of the supported APIs: one module per API, chosen by its name.

A module defines the members of `StreamDialect`, and nothing that waits or reads a clock. A new API needs one file here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, TypeVar, cast

from bench.errors import ConfigError

T = TypeVar("T")

_NUMBER = re.compile(rb"\s*:\s*(\d+)")
_NULL = (b":null", b": null")


def _latest(new: T | None, old: T | None) -> T | None:
    return old if new is None else new


@dataclass
class EventFacts:
    """What the events of an answer have reported so far; None where they have not reported it."""

    tokens: int | None = None
    """Tokens of the complete answer up to this event, for an event that may carry some."""
    more: bool = False
    """Whether the event carries text or ids."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    aborted: str | None = None
    """Why the server aborted this request."""

    def update(self, later: "EventFacts") -> None:
        """Overwrite the facts that ``later`` reports too."""
        self.tokens = _latest(later.tokens, self.tokens)
        self.more = later.more
        self.prompt_tokens = _latest(later.prompt_tokens, self.prompt_tokens)
        self.completion_tokens = _latest(later.completion_tokens, self.completion_tokens)
        self.cached_tokens = _latest(later.cached_tokens, self.cached_tokens)
        self.finish_reason = _latest(later.finish_reason, self.finish_reason)
        self.error = _latest(later.error, self.error)
        self.aborted = _latest(later.aborted, self.aborted)


class StreamDialect(Protocol):
    """The members of a module of this package."""

    PATH: str
    """Path of generations."""
    FLUSH_PATH: str | None
    """Path that empties the prefix cache; None if there is none."""
    HEALTH_PATH: str | None
    """Path that answers 200 once a token has been generated; None if only a generation can show it."""
    PROVES_CACHE: bool
    """Whether an answer without a count of cached tokens means a broken server."""
    UNPROVEN: tuple[str, ...]
    """What no server of this API can prove, one sentence each."""

    def request(self, prompt: Sequence[int] | str, *, max_new_tokens: int, model: str) -> dict[str, Any]:
        """Return the body that requests exactly ``max_new_tokens`` greedy tokens, streamed."""

    def running_count(self, event: bytes) -> int | None:
        """Return the running token count of an ordinary event in the middle of an answer; None for any other event.

        Called for each event, so it searches for the count only and parses nothing.
        """

    def read_event(self, event: bytes) -> EventFacts:
        """Return everything that an event reports.

        Raises:
            ValueError: the event is not valid in this API.
        """


def names() -> list[str]:
    """Return the names of all protocols."""
    return sorted(module.name for module in iter_modules(__path__))


def dialect(name: str) -> StreamDialect:
    """Return the module called ``name``.

    Raises:
        ConfigError: there is no such module.
    """
    if name not in names():
        raise ConfigError(
            f"no protocol '{name}'; known are {', '.join(names())}, one file each in bench/speed/protocols"
        )
    return cast(StreamDialect, import_module(f"{__name__}.{name}"))


def middle_count(event: bytes) -> int | None:
    """Return ``completion_tokens`` of an event whose ``finish_reason`` is null; None for any other event.

    The keys cannot occur inside generated text, where JSON escapes each quotation mark. They are near the end, after a
    text that may be long, so the search starts there.
    """
    reason = event.rfind(b'"finish_reason"')
    if reason < 0 or not event.startswith(_NULL, reason + 15):
        return None
    key = event.rfind(b'"completion_tokens"')
    if key < 0:
        return None
    count = _NUMBER.match(event, key + 19)
    return int(count[1]) if count else None
