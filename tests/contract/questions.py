"""Questions as the accuracy stage puts them, to any server, and whether its answers agree with each other."""

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from bench.accuracy.protocols import dialect
from bench.accuracy.questions import Answer, Question, Sampling
from tests.contract.answers import Send
from tests.contract.asked import Asked
from tests.support.serving import Reference

Ask = Callable[[Question], Answer]
N_SCORED = 4
"""Tokens of a continuation."""
N_TEXT = 24
"""Tokens of a text."""


def asker(protocol: str, send: Send, model: str = "") -> Ask:
    """Return what asks a server one question, in the words of a module of :mod:`bench.accuracy.protocols`."""
    words = dialect(protocol)

    def ask(question: Question) -> Answer:
        answers = [send(Asked(words.PATH, body)) for body in words.requests(question, model)]
        assert {answer.status for answer in answers} == {200}, answers
        return words.read(question, [answer.values()[0] for answer in answers])

    return ask


def text(ids: Sequence[int], n: int = N_TEXT, *stop: str) -> Question:
    """Return the question for ``n`` tokens of text, the likeliest ones."""
    return Question(context=tuple(ids), sampling=Sampling(max_new_tokens=n, stop=stop, temperature=0.0))


def disagreements(ask: Ask, ids: Sequence[int], said: Sequence[int], tolerance: float) -> list[str]:
    """Return where a server's answers do not agree with each other, a line each.

    Args:
        ask: asks the server.
        ids: a prompt of ordinary token ids.
        said: what the server itself generates after it, the likeliest token each time; two tokens or more.
        tolerance: by how many nats log-probabilities of one token may differ.
    """
    ids, said, other = tuple(ids), tuple(said), next(token for token in ids if token != said[0])
    whole = ask(Question(context=ids[:-N_SCORED], continuation=ids[-N_SCORED:])).logprobs[0]
    places = range(len(ids) - N_SCORED, len(ids))
    steps = [ask(Question(context=ids[:place], choices=(other, ids[place]))).logprobs[1] for place in places]
    first = ask(Question(context=ids, choices=(other, said[0])))
    follows = {tokens: ask(Question(context=ids, continuation=tokens)) for tokens in (said, (other, *said[1:]))}
    plain = ask(text(ids))
    written = plain.text or ""
    stop = written[len(written) // 2 :][:2]
    before = written.partition(stop)[0]
    stopped = ask(text(ids, N_TEXT, stop))
    facts = {
        f"{N_SCORED} tokens: {whole:.3f} nats as a whole, {sum(steps):.3f} one by one": abs(whole - sum(steps))
        <= tolerance * N_SCORED,
        f"what it says next is greedy {first.greedy}, right is (False, True)": first.greedy == (False, True),
        "what it says next is less likely than another token": first.logprobs[1] > first.logprobs[0],
        "what it says is not greedy as a continuation": follows[said].greedy == (True,),
        "what it does not say is greedy as a continuation": follows[other, *said[1:]].greedy == (False,),
        f"{plain.output_tokens} tokens of text, asked for were {N_TEXT}": plain.output_tokens == N_TEXT,
        "a text that reached its limit does not count as cut": plain.cut,
        f"{written!r} stopped at {stop!r} is {stopped.text!r}": stopped.text == before,
        "an answer that was stopped counts as cut": not stopped.cut,
    }
    return [what for what, holds in facts.items() if not holds]


def mixed(ids: Sequence[int], context_length: int) -> Iterator[Question]:
    """Yield questions of every kind and many lengths, some as long as the context, of tokens drawn from ``ids``."""
    drawn = random.Random(0)
    for n in (1, 2, 7, 33, 34, 100, 101, context_length - 1):
        context = tuple(drawn.choices(ids, k=n))
        yield Question(context=context, choices=tuple(drawn.sample(ids, k=1 + n % 5)))
        yield text(context, min(9, context_length - n))
    for n, n_scored in ((1, 2), (9, 3), (60, 40), (context_length - 4, 4)):
        tokens = tuple(drawn.choices(ids, k=n + n_scored))
        yield Question(context=tokens[:n], continuation=tokens[n:])


def truth(reference: Reference, question: Question, end: int) -> Answer:
    """Return the right answer, by plain transformers; ``end`` is the token that ends texts."""
    context, continuation = list(question.context), question.continuation
    if question.sampling:
        most = question.sampling.max_new_tokens
        said = reference.greedy(context, most)
        ended = said[: said.index(end)] if end in said else said
        return Answer(
            text=reference.tokenizer.decode(ended), cut=ended == said, output_tokens=min(len(ended) + 1, most)
        )
    found = reference.logprobs(list(question.prompt))[len(context) - 1 :]
    if question.choices:
        logprobs = tuple(float(found[0, token]) for token in question.choices)
        return Answer(logprobs=logprobs, greedy=tuple(token == int(found[0].argmax()) for token in question.choices))
    total = sum(float(found[place, token]) for place, token in enumerate(continuation))
    greedy = all(token == int(found[place].argmax()) for place, token in enumerate(continuation))
    return Answer(logprobs=(total,), greedy=(greedy,))


def assert_like(found: Answer, right: Answer, tolerance: float = 1e-3) -> None:
    """Assert that an answer is the right one, its log-probabilities up to ``tolerance`` nats."""
    assert found.logprobs == pytest.approx(right.logprobs, abs=tolerance)
    assert (found.greedy, found.text, found.cut) == (right.greedy, right.text, right.cut)
    if right.text is not None:
        assert found.output_tokens == right.output_tokens
