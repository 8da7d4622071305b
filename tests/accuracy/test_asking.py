"""The asker over real HTTP against a server with known answers: every answer right, none lost or repeated."""

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench.accuracy import asking as module
from bench.accuracy.asking import Asker, Endpoint, ServerGoneError
from bench.accuracy.journal import Journal
from bench.accuracy.questions import Answer, Question, Sampling
from bench.accuracy.tasks import KEY_VARIABLE
from bench.errors import AccuracyError
from tests.support.accuracy_jobs import asking, kept
from tests.support.examinee import Body, answer, answering, error, is_greedy, logprob

TEXT = Sampling(max_new_tokens=8, stop=("Q:",), temperature=0.0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.001)


def questions(n: int) -> list[Question]:
    """Return ``n`` questions of all three kinds, with the same prefix within a kind."""
    kinds: list[dict[str, Any]] = [{"choices": (7, 8, 9)}, {"continuation": (7, 8)}, {"sampling": TEXT}]
    return [Question(context=(number % 3, 4, 5, number), **kinds[number % 3]) for number in range(n)]


def truth(question: Question) -> tuple[tuple[float, ...], tuple[bool, ...], str | None]:
    """Return the expected answer of the fake server to a question."""
    context = list(question.context)
    if question.choices:
        logprobs = tuple(logprob(context, token) for token in question.choices)
        return logprobs, tuple(value == max(logprobs) for value in logprobs), None
    if question.continuation:
        places = [(context + list(question.continuation[:n]), token) for n, token in enumerate(question.continuation)]
        total = sum(logprob(before, token) for before, token in places)
        return (pytest.approx(total),), (all(is_greedy(before, token) for before, token in places),), None
    return (), (), answer({"input_ids": context, "sampling_params": {"temperature": 0}})["text"]


def results(answers: list[Answer]) -> list[tuple[Any, ...]]:
    return [(reply.logprobs, reply.greedy, reply.text) for reply in answers]


def test_every_kind_of_question_gets_its_answer(tmp_path: Path) -> None:
    batch = questions(30)
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        assert results(asker.ask(batch)) == [truth(question) for question in batch]
        work = asker.work()
    assert (work.requests, work.retried, work.resumed, work.concurrency) == (30, 0, 0, 4)
    assert work.prompt_tokens == sum(len(question.prompt) for question in batch)
    assert work.unique_tokens == 3 * 3 + 30 + 10 * 2
    assert work.cached_tokens == sum(len(question.prompt) // 2 for question in batch)
    assert work.output_tokens == 3 * 10
    assert 0 < work.duration_s < 20


def test_a_question_that_comes_twice_is_asked_once(tmp_path: Path) -> None:
    batch = questions(6)
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        answers = asker.ask([*batch, *reversed(batch)])
    assert len(server.bodies) == 6
    assert answers[:6] == answers[:5:-1]


def test_answers_drawn_at_random_are_asked_for_each(tmp_path: Path) -> None:
    draw = TEXT.model_copy(update={"temperature": 0.7})
    batch = [Question(context=(1, 2), sampling=draw, nth=nth) for nth in range(5)]
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        assert len({reply.text for reply in asker.ask(batch)}) == 5
        assert len({reply.text for reply in asker.ask(batch)}) == 5
    assert len(server.bodies) == 5


@pytest.mark.parametrize("backwards", [False, True])
def test_questions_with_the_same_beginning_follow_each_other(tmp_path: Path, backwards: bool) -> None:
    batch = questions(20)
    with answering() as server, asking(server.url, tmp_path / "j", 1, backwards=backwards) as asker:
        asker.ask(batch)
    prompts = [tuple(body["input_ids"]) for body in server.bodies]
    assert prompts == sorted((question.prompt for question in batch), reverse=backwards)


def test_as_many_requests_are_under_way_as_are_allowed_and_no_more(tmp_path: Path) -> None:
    with answering() as server, asking(server.url, tmp_path / "j", 7) as asker:
        server.delay_s = 0.02
        asker.ask(questions(40))
    assert server.most_under_way == 7


def test_known_answers_are_not_requested_and_count_as_done(tmp_path: Path) -> None:
    batch, progress = questions(20), []
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        first = asker.ask(batch[:8])
    with answering() as again, asking(again.url, tmp_path / "j", on_progress=lambda *at: progress.append(at)) as asker:
        assert asker.ask(batch)[:8] == first
        assert asker.work().resumed == 8
        assert asker.work().requests == 12
    assert len(again.bodies) == 12
    assert not set(again.questions) & set(server.questions)
    assert progress == [(done, 20) for done in range(8, 21)]


def test_the_servers_key_goes_with_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        asker.ask(questions(3))
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}


def cut(number: int, body: Body) -> web.Response:
    """Return an answer whose connection breaks in the middle."""

    class Cut(web.Response):
        async def prepare(self, request: web.BaseRequest) -> None:  # type: ignore[override]
            assert request.transport
            request.transport.close()

    return Cut()


@pytest.mark.parametrize("kind", ["HTTP 500", "HTTP 429", "HTTP 408", "a cut connection", "no JSON"])
def test_an_occasional_fault_changes_no_answer(tmp_path: Path, kind: str) -> None:
    def wrong(number: int, body: Body) -> web.StreamResponse | None:
        if number % 50:
            return None
        if kind.startswith("HTTP"):
            return error(int(kind.split()[1]))
        return cut(number, body) if kind == "a cut connection" else web.Response(text="{", content_type="text/html")

    batch = questions(200)
    with answering(wrong) as server, asking(server.url, tmp_path / "j") as asker:
        assert results(asker.ask(batch)) == [truth(question) for question in batch]
        work = asker.work()
    assert len(server.bodies) == 204
    assert (work.requests, work.retried) == (200, 4)


STRUCK = 11
"""The question that gets the fault; it asks for text."""


def struck(body: Body) -> bool:
    return bool(body["input_ids"][3] == STRUCK)


def test_a_question_that_fails_in_every_attempt_costs_no_other_answer(tmp_path: Path) -> None:
    batch = questions(21)
    broken = batch[STRUCK]
    with answering(lambda number, body: error(500) if struck(body) else None) as server:
        with asking(server.url, tmp_path / "j") as asker, pytest.raises(AccuracyError) as caught:
            asker.ask(batch)
        assert len(server.bodies) == 20 + module.TRIES
    assert "1 of 21 questions were not answered, the first: HTTP 500: " in str(caught.value)
    assert "no memory" in str(caught.value)
    assert "20 answers are kept; rerun the same command to ask only the rest" in str(caught.value)
    with answering() as again, asking(again.url, tmp_path / "j") as asker:
        assert results(asker.ask(batch)) == [truth(question) for question in batch]
    assert [body["input_ids"] for body in again.bodies] == [list(broken.prompt)]


@pytest.mark.parametrize("status", [400, 404, 413])
def test_a_refusal_is_not_asked_again(tmp_path: Path, status: int) -> None:
    refusal = pytest.raises(AccuracyError, match=rf"HTTP {status}.*too long.*\(attempt 1 of")
    failing = answering(lambda number, body: error(status, "too long") if struck(body) else None)
    with failing as server, asking(server.url, tmp_path / "j") as asker, refusal:
        asker.ask(questions(21))
    assert len(server.bodies) == 21


def test_asking_stops_early_if_every_question_fails(tmp_path: Path) -> None:
    failing = answering(lambda number, body: error(400) if number > 100 else None)
    with failing as server, asking(server.url, tmp_path / "j") as asker, pytest.raises(AccuracyError) as caught:
        asker.ask(questions(1000))
    assert f"{module.GIVE_UP} consecutive questions were not answered, the last: HTTP 400" in str(caught.value)
    assert "100 answers are kept" in str(caught.value)
    assert len(server.bodies) <= 100 + module.GIVE_UP + 4
    assert len(kept(tmp_path / "j")[0]) == 100


def test_failures_that_are_not_in_a_row_do_not_make_it_give_up(tmp_path: Path) -> None:
    refusal = pytest.raises(AccuracyError, match="100 of 200 questions")
    failing = answering(lambda number, body: error(400) if number % 2 else None)
    with failing as server, asking(server.url, tmp_path / "j") as asker, refusal:
        asker.ask(questions(200))
    assert len(server.bodies) == 200


@pytest.mark.parametrize(
    ("bad", "message"), [(math.nan, "nan"), (None, "None"), (-math.inf, "-inf"), (math.inf, "inf")]
)
def test_log_probabilities_that_are_no_numbers_are_refused_and_not_kept(tmp_path: Path, bad: Any, message: str) -> None:
    def wrong(number: int, body: Body) -> Body | None:
        if not struck(body):
            return None
        response = answer(body)
        response["meta_info"]["input_token_logprobs"][-1][0] = bad
        return response

    batch = [Question(context=(1, 2), continuation=(9, number)) for number in range(21)]
    refusal = pytest.raises(AccuracyError, match=f"a log-probability of {message}: its logits are not finite numbers")
    with answering(wrong) as server, asking(server.url, tmp_path / "j") as asker, refusal:
        asker.ask(batch)
    assert batch[STRUCK].digest() not in kept(tmp_path / "j")[0]


@pytest.mark.parametrize(
    "response",
    [
        {},
        [],
        {"meta_info": {}},
        {"meta_info": {"finish_reason": None}},
        {"text": "", "meta_info": {"finish_reason": {}}},
        {"text": 1, "meta_info": {"finish_reason": {"type": "stop"}}},
    ],
)
def test_an_answer_that_cannot_be_read_fails_its_question_alone(tmp_path: Path, response: Any) -> None:
    batch = questions(21)
    refusal = pytest.raises(AccuracyError, match=r"1 of 21 .*cannot be read")
    failing = answering(lambda number, body: response if struck(body) else None)
    with failing as server, asking(server.url, tmp_path / "j") as asker, refusal:
        asker.ask(batch)
    assert len(kept(tmp_path / "j")[0]) == 20


def test_an_answer_to_other_tokens_is_refused(tmp_path: Path) -> None:
    def wrong(number: int, body: Body) -> Body:
        return answer({**body, "input_ids": [*body["input_ids"][:-1], 1]})

    refusal = pytest.raises(AccuracyError, match="scored tokens other than the requested ones")
    with answering(wrong) as server, asking(server.url, tmp_path / "j") as asker, refusal:
        asker.ask([Question(context=(1, 2), continuation=(9, 10))])


def test_a_lost_server_is_reported_at_once_and_its_answers_are_kept(tmp_path: Path) -> None:
    batch = questions(60)
    stopped = []

    def wrong(number: int, body: Body) -> web.StreamResponse | None:
        if number < 40:
            return None
        if number == 40:
            stopped.append(asyncio.get_running_loop().create_task(server.stop()))
        return cut(number, body)

    with answering(wrong) as server:
        begin = time.monotonic()
        with asking(server.url, tmp_path / "j") as asker, pytest.raises(ServerGoneError, match="nothing answers at"):
            asker.ask(batch)
        assert time.monotonic() - begin < 10
    assert 36 <= len(kept(tmp_path / "j")[0]) <= 39
    with answering() as again, asking(again.url, tmp_path / "j") as asker:
        assert results(asker.ask(batch)) == [truth(question) for question in batch]


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    with answering() as server, Journal(tmp_path / "j") as journal:
        server.delay_s = 0.5
        asker = Asker(Endpoint(server.url, "sglang", "", 2, timeout_s=0.05), journal)
        with pytest.raises(AccuracyError, match=r"2 of 2 questions .*Timeout.*\(attempt 3 of 3\)"):
            asker.ask(questions(2))
    assert len(server.bodies) == 2 * module.TRIES


def test_an_empty_list_of_questions_is_no_error(tmp_path: Path) -> None:
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        assert asker.ask([]) == []
        assert asker.work().unique_tokens == 0


def test_the_journal_holds_a_line_for_each_answer_and_no_text_of_any_question(tmp_path: Path) -> None:
    with answering() as server, asking(server.url, tmp_path / "j") as asker:
        asker.ask(questions(6))
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert len({digest for digest, _ in lines}) == 6
    assert {name for _, entry in lines for name in entry} <= Answer.model_fields.keys()
