"""Requests of questions in the supported APIs: one module per API, named like those of :mod:`bench.speed.protocols`.

A module defines the members of `QuestionDialect`, and nothing that waits. A new API needs one file here and one there.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from bench.accuracy.questions import Answer, Question


class QuestionDialect(Protocol):
    """The members of a module of this package."""

    PATH: str
    """Path of the requests."""
    MAX_STOPS: int | None
    """Most stop texts of a request; None for any number."""

    def requests(self, question: Question, model: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests that answer a question; a single one if the API allows it."""

    def refusal(self, question: Question, reason: str) -> str | None:
        """Return an error message if a refusal applies to all questions of this kind; None if only to this one."""

    def read(self, question: Question, answers: Sequence[dict[str, Any]]) -> Answer:
        """Return the answer to a question from the answers to its requests.

        Raises:
            AccuracyError: a log-probability is not a finite number, or the answer is to another question.
            KeyError, IndexError, TypeError, ValueError: the answer is not valid in this API.
        """


def dialect(name: str) -> QuestionDialect:
    """Return the module called ``name``."""
    return cast(QuestionDialect, import_module(f"{__name__}.{name}"))
