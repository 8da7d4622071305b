"""How questions are put to servers: one module for each API, named like those of :mod:`bench.speed.protocols`.

A module holds what `QuestionDialect` lists, and nothing that waits. Adding an API is one file here and one there.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from bench.accuracy.questions import Answer, Question


class QuestionDialect(Protocol):
    """What a module of this package holds."""

    PATH: str
    """Where questions are asked."""
    MAX_STOPS: int | None
    """Most stop texts of a request; None for any number."""

    def requests(self, question: Question, model: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests that answer a question; one if the API can do it in one."""

    def refusal(self, question: Question, reason: str) -> str | None:
        """Return what a refusal says of every question of the kind, with what to type; None if only of this one."""

    def read(self, question: Question, answers: Sequence[dict[str, Any]]) -> Answer:
        """Return what the answers to those requests say.

        Raises:
            AccuracyError: a log-probability is no finite number, or the answer is to another question.
            KeyError, IndexError, TypeError, ValueError: the answer is not what this API sends.
        """


def dialect(name: str) -> QuestionDialect:
    """Return the module called ``name``."""
    return cast(QuestionDialect, import_module(f"{__name__}.{name}"))
