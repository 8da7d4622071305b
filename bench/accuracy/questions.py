"""Questions to a server and their answers, independent of its API. Pure values and functions."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import AccuracyError
from bench.records.record import Problem
from quantize.key import Frozen


class Sampling(Frozen):
    """How an answer is generated."""

    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float = 0.0
    """Divisor of the logits before the softmax, without unit; 0 takes the most likely token."""
    top_p: float = 1.0
    """Cumulative probability, most likely tokens first, that tokens are sampled from."""
    top_k: int = -1
    """-1 for all tokens."""
    min_p: float = 0.0
    """Share of the most likely token's probability below which tokens are not sampled."""
    seed: int | None = None
    """Seed of the sampling; None without sampling."""


class Question(Frozen):
    """One question, with exactly one of ``choices``, ``continuation`` and ``sampling``."""

    context: tuple[int, ...]
    """Token ids of the prompt, one or more."""
    choices: tuple[int, ...] = ()
    """Token ids; asks for the log-probability of each as the next token."""
    continuation: tuple[int, ...] = ()
    """Token ids; asks for their joint log-probability after the context."""
    sampling: Sampling | None = None
    """Asks for generated text."""
    nth: int = 0
    """Number of earlier questions that are equal, if their answers are sampled."""

    def seeded(self, seed: int) -> "Question":
        """Return the question with its own sampling seed, the same in every run; unchanged if it is not sampled."""
        if self.sampling is None or self.sampling.temperature == 0:
            return self
        own = int(hashlib.sha256(f"{seed} {self.digest()}".encode()).hexdigest()[:8], 16) >> 1
        return self.model_copy(update={"sampling": self.sampling.model_copy(update={"seed": own})})

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids that the server reads."""
        return self.context + self.continuation

    def digest(self) -> str:
        """Return the digest that identifies this question."""
        ids = [np.asarray(part, dtype=np.int64).tobytes() for part in (self.context, self.choices, self.continuation)]
        how = f"{self.sampling.model_dump_json()} {self.nth}".encode() if self.sampling else b""
        return hashlib.sha256(b"|".join([*(str(len(part)).encode() + part for part in ids), how])).hexdigest()[:20]


class Answer(Frozen):
    """The answer to one question."""

    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each choice, or the joint one of the continuation."""
    greedy: tuple[bool, ...] = ()
    """Whether these are the most likely tokens."""
    text: str | None = None
    cut: bool = False
    """Whether the text reached its length limit."""
    cached_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class PromptNote:
    """Facts about a prompt other than its score."""

    prompt_tokens: int
    problem: Problem | None = None


def finite(logprob: float | None) -> float:
    """Return a log-probability.

    Raises:
        AccuracyError: NaN, infinite or missing; an argmax over such values would silently answer "A".
    """
    if logprob is None or not math.isfinite(logprob):
        raise AccuracyError(f"the server answered a log-probability of {logprob}: its logits are not finite numbers")
    return logprob


def unique_tokens(prompts: Iterable[Sequence[int]]) -> int:
    """Return the number of tokens of all prompts if every common prefix is computed once."""
    total, before = 0, np.empty(0, dtype=np.int64)
    for prompt in sorted(map(tuple, prompts)):
        now = np.asarray(prompt, dtype=np.int64)
        n = min(len(before), len(now))
        differs = before[:n] != now[:n]
        total += len(now) - (int(differs.argmax()) if differs.any() else n)
        before = now
    return total


def in_order(questions: Sequence[Question], *, backwards: bool = False) -> list[int]:
    """Return the indexes of questions in the order to ask them, so that prompts with a common prefix are adjacent."""
    return sorted(range(len(questions)), key=lambda place: questions[place].prompt, reverse=backwards)
