"""How servers are asked and how their streams are read: one module for each API, by whose name it is chosen.

A module holds what `StreamDialect` lists, and nothing that waits or reads a clock. Adding an API is one file here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, cast

from bench.errors import ConfigError

_NUMBER = re.compile(rb"\s*:\s*(\d+)")
_NULL = (b":null", b": null")


@dataclass
class EventFacts:
    """What the events of an answer have told; None stands for what they did not."""

    tokens: int | None = None
    """Tokens of the whole answer up to this event, for an event that may carry some."""
    more: bool = False
    """The event carries text or ids."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    aborted: str | None = None
    """Why the server gave up on this request alone."""

    def update(self, later: "EventFacts") -> None:
        """Take over what ``later`` tells."""
        for field in fields(self):
            value = getattr(later, field.name)
            if value is not None:
                setattr(self, field.name, value)


class StreamDialect(Protocol):
    """What a module of this package holds."""

    PATH: str
    """Where generations are asked for."""
    FLUSH_PATH: str | None
    """Where the prefix cache is emptied; None if it cannot be."""
    HEALTH_PATH: str | None
    """What answers 200 once a token has really been generated; None if only a generation shows it."""
    PROVES_CACHE: bool
    """Whether an answer without a count of cached tokens means a broken server."""
    UNPROVEN: tuple[str, ...]
    """What no server of this API can prove, one sentence each."""

    def request(self, prompt: Sequence[int] | str, *, max_new_tokens: int, model: str) -> dict[str, Any]:
        """Return the body that asks for exactly ``max_new_tokens`` greedy tokens, streamed."""

    def running_count(self, event: bytes) -> int | None:
        """Return the running token count of an ordinary event in the middle of an answer; None for any other.

        Called for each event, so it looks for the count alone and parses nothing.
        """

    def read_event(self, event: bytes) -> EventFacts:
        """Return everything that an event tells.

        Raises:
            ValueError: it is not what this API sends.
        """


def names() -> list[str]:
    """Return the names of all protocols."""
    return sorted(module.name for module in iter_modules(__path__))


def dialect(name: str) -> StreamDialect:
    """Return the module called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in names():
        raise ConfigError(
            f"no protocol '{name}'; known are {', '.join(names())}, one file each in bench/speed/protocols"
        )
    return cast(StreamDialect, import_module(f"{__name__}.{name}"))


def middle_count(event: bytes) -> int | None:
    """Return ``completion_tokens`` of an event whose ``finish_reason`` is null; None for any other event.

    The keys cannot be met inside generated text, where JSON puts a backslash before each quotation mark. They stand
    near the end, behind a text that may be long, so they are looked for from there.
    """
    reason = event.rfind(b'"finish_reason"')
    if reason < 0 or not event.startswith(_NULL, reason + 15):
        return None
    key = event.rfind(b'"completion_tokens"')
    if key < 0:
        return None
    count = _NUMBER.match(event, key + 19)
    return int(count[1]) if count else None
