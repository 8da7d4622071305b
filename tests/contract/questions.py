"""Questions of the accuracy stage for any server, and checks that its answers agree with each other."""

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
    """Return a function that asks a server one question, in a protocol of :mod:`bench.accuracy.protocols`."""
    module = dialect(protocol)

    def ask(question: Question) -> Answer:
        answers = [send(Asked(module.PATH, body)) for body in module.requests(question, model)]
        assert {answer.status for answer in answers} == {200}, answers
        return module.read(question, [answer.values()[0] for answer in answers])

    return ask


def text(ids: Sequence[int], n: int = N_TEXT, *stop: str) -> Question:
    """Return the question for ``n`` tokens of text, sampled greedily."""
    return Question(context=tuple(ids), sampling=Sampling(max_new_tokens=n, stop=stop, temperature=0.0))


def disagreements(ask: Ask, ids: Sequence[int], said: Sequence[int], tolerance: float) -> list[str]:
    """Return one line for each disagreement between a server's answers.

    Args:
        ask: asks the server.
        ids: a prompt of ordinary token ids.
        said: the server's own greedy answer to it; two tokens or more.
        tolerance: largest difference of a token's log-probabilities, nats.
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
        f"{N_SCORED} tokens: {whole:.3f} nats as a whole, {sum(steps):.3f} token by token": abs(whole - sum(steps))
        <= tolerance * N_SCORED,
        f"its next token is greedy {first.greedy}, right is (False, True)": first.greedy == (False, True),
        "its next token is less likely than another one": first.logprobs[1] > first.logprobs[0],
        "its answer is not greedy as a continuation": follows[said].greedy == (True,),
        "another text than its answer is greedy as a continuation": follows[other, *said[1:]].greedy == (False,),
        f"{plain.output_tokens} tokens of text, asked for were {N_TEXT}": plain.output_tokens == N_TEXT,
        "a text that reached its limit does not count as cut": plain.cut,
        f"{written!r} stopped at {stop!r} is {stopped.text!r}": stopped.text == before,
        "an answer that was stopped counts as cut": not stopped.cut,
    }
    return [fault for fault, holds in facts.items() if not holds]


def mixed(ids: Sequence[int], context_length: int) -> Iterator[Question]:
    """Yield questions of every kind and of many lengths up to the context, with tokens drawn from ``ids``."""
    drawn = random.Random(0)
    for n in (1, 2, 7, 33, 34, 100, 101, context_length - 1):
        context = tuple(drawn.choices(ids, k=n))
        yield Question(context=context, choices=tuple(drawn.sample(ids, k=1 + n % 5)))
        yield text(context, min(9, context_length - n))
    for n, n_scored in ((1, 2), (9, 3), (60, 40), (context_length - 4, 4)):
        tokens = tuple(drawn.choices(ids, k=n + n_scored))
        yield Question(context=tokens[:n], continuation=tokens[n:])


def truth(reference: Reference, question: Question, end: int) -> Answer:
    """Return the right answer, computed by transformers; ``end`` is the token that ends texts."""
    context, continuation = list(question.context), question.continuation
    if question.sampling:
        most = question.sampling.max_new_tokens
        said = reference.greedy(context, most)
        ended = said[: said.index(end)] if end in said else said
        return Answer(
            text=reference.tokenizer.decode(ended), cut=ended == said, output_tokens=min(len(ended) + 1, most)
        )
    rows = reference.logprobs(list(question.prompt))[len(context) - 1 :]
    if question.choices:
        logprobs = tuple(float(rows[0, token]) for token in question.choices)
        return Answer(logprobs=logprobs, greedy=tuple(token == int(rows[0].argmax()) for token in question.choices))
    total = sum(float(rows[place, token]) for place, token in enumerate(continuation))
    greedy = all(token == int(rows[place].argmax()) for place, token in enumerate(continuation))
    return Answer(logprobs=(total,), greedy=(greedy,))


def assert_like(answer: Answer, right: Answer, tolerance: float = 1e-3) -> None:
    """Assert that an answer is right, with log-probabilities within ``tolerance`` nats."""
    assert answer.logprobs == pytest.approx(right.logprobs, abs=tolerance)
    assert (answer.greedy, answer.text, answer.cut) == (right.greedy, right.text, right.cut)
    if right.text is not None:
        assert answer.output_tokens == right.output_tokens
