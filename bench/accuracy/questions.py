"""What a server is asked and what it answers, whatever API it speaks. Pure values and functions."""

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
    """Divides the logits before the softmax, without unit; 0 takes the most likely token."""
    top_p: float = 1.0
    """Share of the probability, most likely tokens first, that tokens are drawn from."""
    top_k: int = -1
    """-1 for all tokens."""
    min_p: float = 0.0
    """Share of the most likely token's probability below which none is drawn."""
    seed: int | None = None
    """Of the draws; None where nothing is drawn."""


class Question(Frozen):
    """One thing to ask: exactly one of ``choices``, ``continuation`` and ``sampling`` is given."""

    context: tuple[int, ...]
    """Token ids of the prompt, one or more."""
    choices: tuple[int, ...] = ()
    """Token ids of which each one's log-probability is wanted, as the next token."""
    continuation: tuple[int, ...] = ()
    """Token ids whose log-probability after the context is wanted, as a whole."""
    sampling: Sampling | None = None
    """Text is wanted."""
    nth: int = 0
    """Counts questions that are alike and whose answers are drawn at random."""

    def seeded(self, seed: int) -> "Question":
        """Return the question with a seed of its own for its draws, the same in every run; as it is if it has none."""
        if self.sampling is None or self.sampling.temperature == 0:
            return self
        own = int(hashlib.sha256(f"{seed} {self.digest()}".encode()).hexdigest()[:8], 16) >> 1
        return self.model_copy(update={"sampling": self.sampling.model_copy(update={"seed": own})})

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids that the server has to read."""
        return self.context + self.continuation

    def digest(self) -> str:
        """Return what tells this question from every other."""
        ids = [np.asarray(part, dtype=np.int64).tobytes() for part in (self.context, self.choices, self.continuation)]
        how = f"{self.sampling.model_dump_json()} {self.nth}".encode() if self.sampling else b""
        return hashlib.sha256(b"|".join([*(str(len(part)).encode() + part for part in ids), how])).hexdigest()[:20]


class Answer(Frozen):
    """What came back."""

    logprobs: tuple[float, ...] = ()
    """Log-probability (natural) of each choice, or of the continuation as a whole."""
    greedy: tuple[bool, ...] = ()
    """Whether the most likely tokens would have been these."""
    text: str | None = None
    cut: bool = False
    """Whether the text ended because it had reached its limit."""
    cached_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class PromptNote:
    """What is worth knowing of a prompt besides its score."""

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
    """Return how many tokens of all prompts must be computed where every common beginning is computed once."""
    total, before = 0, np.empty(0, dtype=np.int64)
    for prompt in sorted(map(tuple, prompts)):
        now = np.asarray(prompt, dtype=np.int64)
        n = min(len(before), len(now))
        differs = before[:n] != now[:n]
        total += len(now) - (int(differs.argmax()) if differs.any() else n)
        before = now
    return total


def in_order(questions: Sequence[Question], *, backwards: bool = False) -> list[int]:
    """Return the places of questions in the order to ask them: those with the same beginning follow each other."""
    return sorted(range(len(questions)), key=lambda place: questions[place].prompt, reverse=backwards)
