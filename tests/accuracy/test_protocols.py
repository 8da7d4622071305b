"""Requests to servers: both protocols against recorded answers of real servers, and against wrong answers.

``make contract-sglang`` and ``python -m tests.contract.vllm`` ask the real servers.
"""

# ruff: noqa: F401, F811 — fixtures are imported by name

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.protocols import openai, sglang
from bench.accuracy.questions import Answer, Question, Sampling
from bench.errors import AccuracyError
from tests.contract import questions, vllm
from tests.contract.answers import FOLDER, read_fixture, sender
from tests.contract.asked import SCORED_FROM
from tests.support.serving import VOCAB, Reference, Server, checkpoint, prompt, reference, running, server

MODEL = "quantbench"
UNREADABLE = (KeyError, IndexError, TypeError, ValueError)
ANSWERED = sorted(name for name in vllm.QUESTIONS if not name.startswith("error"))
Wrong = Callable[[Any], Any]


def recorded(name: str) -> Any:
    """Return the recorded answer of the real vLLM to a question."""
    return read_fixture(name, vllm.FOLDER)["json"]


def as_sent(body: Any) -> Any:
    return json.loads(json.dumps(body))


def sglang_question(name: str) -> Question:
    """Return the question of a recorded request to the real SGLang."""
    body = read_fixture(name)["request"]["body"]
    ids = tuple(body["input_ids"])
    if name == "score_choices":
        return Question(context=ids, choices=tuple(body["token_ids_logprob"]))
    return Question(context=ids[: SCORED_FROM + 1], continuation=ids[SCORED_FROM + 1 :])


# Recorded answers of real servers


@pytest.mark.parametrize("name", sorted(vllm.QUESTIONS))
def test_the_recorded_requests_to_vllm_are_those_that_are_sent(name: str) -> None:
    (body,) = openai.requests(vllm.QUESTIONS[name], MODEL)
    exchange = read_fixture(name, vllm.FOLDER)
    if name not in ("error_too_long", "error_too_many_choices"):  # long lists in it are shortened
        assert exchange["request"]["body"] == as_sent(body)
    assert exchange["status"] == (400 if name.startswith("error") else 200)


@pytest.mark.parametrize("name", ["choices", "choices_at_end", "continuation", "continuation_greedy"])
def test_log_probabilities_are_read_from_a_real_vllm(name: str) -> None:
    question, answer = vllm.QUESTIONS[name], recorded(name)
    read = openai.read(question, [answer])
    logprobs = answer["choices"][0]["logprobs"]
    if question.choices:
        assert read.logprobs == tuple(logprobs["top_logprobs"][0][f"token_id:{token}"] for token in question.choices)
        assert read.greedy == tuple(f"token_id:{token}" == logprobs["tokens"][0] for token in question.choices)
    else:
        # The last prompt token is scored as a choice, so vLLM's prompt scores cover all tokens before it.
        before = [row[str(token)]["logprob"] for row, token in _prompt_rows(answer, question)]
        last = logprobs["top_logprobs"][-1][f"token_id:{question.continuation[-1]}"]
        assert read.logprobs == (pytest.approx(sum(before) + last),)
        assert read.greedy == (name == "continuation_greedy",)
    assert read.cached_tokens == 0


def _prompt_rows(answer: Any, question: Question) -> list[tuple[Any, int]]:
    n = len(question.continuation) - 1
    return list(zip(answer["choices"][0]["prompt_logprobs"][-n:], question.continuation, strict=False))


@pytest.mark.parametrize(
    ("name", "text", "cut", "n"),
    [("text", "P?`", True, 3), ("text_ended", "P?`X", False, 5), ("text_stopped", "P?", False, 3)],
)
def test_a_text_is_read_from_a_real_vllm(name: str, text: str, cut: bool, n: int) -> None:
    answer = openai.read(vllm.QUESTIONS[name], [recorded(name)])
    assert answer == Answer(text=text, cut=cut, cached_tokens=0, output_tokens=n)


@pytest.mark.parametrize("name", ["score_choices", "score_continuation"])
def test_the_recorded_requests_to_sglang_are_those_that_are_sent(name: str) -> None:
    (body,) = sglang.requests(sglang_question(name), "")
    assert read_fixture(name)["request"]["body"] == as_sent(body)


def test_choices_are_read_from_a_real_sglang() -> None:
    question, answer = sglang_question("score_choices"), read_fixture("score_choices")["json"]
    read = sglang.read(question, [answer])
    (logprobs,) = answer["meta_info"]["output_token_ids_logprobs"]
    assert read.logprobs == tuple(entry[0] for entry in logprobs)
    assert read.cached_tokens == len(question.context) - 1


def test_a_continuation_is_read_from_a_real_sglang() -> None:
    question, answer = sglang_question("score_continuation"), read_fixture("score_continuation")["json"]
    read = sglang.read(question, [answer])
    entries = answer["meta_info"]["input_token_logprobs"]
    assert entries[0][:2] == [None, question.context[-1]], "its score of the context's last token does not count"
    assert read.logprobs == (pytest.approx(sum(entry[0] for entry in entries[1:])),)


def test_a_stopped_text_is_read_from_a_real_sglang() -> None:
    answer = read_fixture("generate_stop")["json"]
    read = sglang.read(questions.text((1,)), [answer])
    assert (read.text, read.cut) == (answer["text"], False)
    assert read.output_tokens == answer["meta_info"]["completion_tokens"]


# The reference server, which implements SGLang's protocol


def test_the_reference_server_answers_every_question_as_transformers_does(server: Server, reference: Reference) -> None:
    ask = questions.asker("sglang", sender(f"http://127.0.0.1:{server.port}"))
    for question in questions.mixed(range(VOCAB - 4), 512):
        questions.assert_like(ask(question), questions.truth(reference, question, end=VOCAB - 1))


def test_the_reference_servers_answers_agree_with_each_other(server: Server, reference: Reference) -> None:
    ids = prompt(1, 40)
    ask = questions.asker("sglang", sender(f"http://127.0.0.1:{server.port}"))
    assert questions.disagreements(ask, ids, reference.greedy(ids, 3), tolerance=1e-3) == []


def test_a_contradictory_server_is_reported(server: Server, reference: Reference) -> None:
    ids = prompt(1, 40)
    ask = questions.asker("sglang", sender(f"http://127.0.0.1:{server.port}"))

    def shifted(question: Question) -> Answer:
        answer = ask(question)
        return answer.model_copy(update={"logprobs": (answer.logprobs[0] - 1,)}) if question.continuation else answer

    (problem,) = questions.disagreements(shifted, ids, reference.greedy(ids, 3), tolerance=1e-3)
    assert "token by token" in problem


# What is sent


def test_a_model_without_a_name_is_not_named() -> None:
    (body,) = openai.requests(vllm.QUESTIONS["text"], "")
    assert "model" not in body


def test_nothing_but_the_model_decides_a_log_probability() -> None:
    for name in ("choices", "continuation"):
        (body,) = openai.requests(vllm.QUESTIONS[name], MODEL)
        assert body["temperature"] == body["presence_penalty"] == body["frequency_penalty"] == 0
        assert body["repetition_penalty"] == 1
        assert not {"stop", "logit_bias", "top_p", "min_p"} & body.keys()


@pytest.mark.parametrize(("top_k", "expected"), [(-1, 0), (20, 20)])
def test_drawn_texts_leave_nothing_to_the_servers_defaults(top_k: int, expected: int) -> None:
    sampling = Sampling(max_new_tokens=5, stop=(), temperature=0.6, top_p=0.9, top_k=top_k)
    (body,) = openai.requests(Question(context=(1,), sampling=sampling), MODEL)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.6, 0.9, expected, 0)
    assert "stop" not in body


# Wrong answers


def changed(answer: Any, path: list[Any], value: Any) -> Any:
    """Return a copy of an answer with another value at a place; None removes it."""
    copied = copy.deepcopy(answer)
    *way, last = path
    place = copied
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copied


ROW = ["choices", 0, "logprobs", "top_logprobs", 0]
OPENAI: dict[str, tuple[str, Wrong, str]] = {
    "no log-probabilities": ("choices", lambda a: changed(a, ["choices", 0, "logprobs"], None), "by token id"),
    "null instead of them": ("choices", lambda a: changed(a, ["choices", 0, "logprobs"], {}), "by token id"),
    "texts instead of ids": (
        "choices",
        lambda a: changed(a, ["choices", 0, "logprobs", "tokens"], ["P"]),
        "by token id",
    ),
    "a choice is missing": (
        "choices",
        lambda a: changed(a, [*ROW, "token_id:65"], None),
        "leaves out requested tokens",
    ),
    "minus infinity": ("choices", lambda a: changed(a, [*ROW, "token_id:65"], -9999.0), "not finite"),
    "not a number": ("choices", lambda a: changed(a, [*ROW, "token_id:65"], math.nan), "not finite"),
    "logits": ("choices", lambda a: changed(a, [*ROW, "token_id:65"], 7.5), "--logprobs-mode"),
    "nothing echoed": (
        "continuation",
        lambda a: {**recorded("choices"), "usage": a["usage"]},
        "tokens other than the requested ones",
    ),
    "another token echoed": (
        "continuation",
        lambda a: changed(a, ["choices", 0, "logprobs", "tokens", 5], "token_id:9"),
        "tokens other than the requested ones",
    ),
    "the last token is missing": (
        "continuation",
        lambda a: changed(a, [*ROW[:-1], -1, "token_id:89"], None),
        "leaves out requested tokens",
    ),
    "a prompt with one token more": ("text", lambda a: changed(a, ["usage", "prompt_tokens"], 31), "31 tokens"),
    "a prompt that was cut": ("choices", lambda a: changed(a, ["usage", "prompt_tokens"], 20), "20 tokens"),
}


@pytest.mark.parametrize("what", OPENAI)
def test_a_wrong_answer_of_openais_protocol_is_never_scored(what: str) -> None:
    name, wrong, message = OPENAI[what]
    with pytest.raises(AccuracyError) as error:
        openai.read(vllm.QUESTIONS[name], [wrong(recorded(name))])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_null_among_log_probabilities_is_never_scored() -> None:
    answer = recorded("choices")
    answer["choices"][0]["logprobs"]["top_logprobs"][0]["token_id:65"] = None
    with pytest.raises(AccuracyError, match="log-probability of None"):
        openai.read(vllm.QUESTIONS["choices"], [answer])


@pytest.mark.parametrize("name", ANSWERED)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: {"error": {"message": "out of memory"}},
        lambda a: changed(a, ["usage"], None),
        lambda a: changed(a, ["usage", "prompt_tokens"], None),
        lambda a: {**a, "choices": []},
        lambda a: {**a, "choices": a["choices"] * 2},
        lambda a: {},
    ],
    ids=["an error", "no usage", "no count", "no choice", "two choices", "nothing"],
)
def test_what_is_no_answer_of_openais_protocol_cannot_be_read(name: str, wrong: Wrong) -> None:
    with pytest.raises(UNREADABLE):
        openai.read(vllm.QUESTIONS[name], [wrong(recorded(name))])


@pytest.mark.parametrize("wrong", [{"finish_reason": "abort"}, {"finish_reason": None}, {"text": None}])
def test_a_text_that_did_not_end_well_is_not_taken_for_one(wrong: dict[str, Any]) -> None:
    answer = recorded("text")
    answer["choices"][0] |= wrong
    with pytest.raises(ValueError, match="ended with"):
        openai.read(vllm.QUESTIONS["text"], [answer])


def test_an_answer_without_cached_tokens_is_readable() -> None:
    for details in (None, {}):
        answer = recorded("choices")
        answer["usage"]["prompt_tokens_details"] = details
        assert openai.read(vllm.QUESTIONS["choices"], [answer]).cached_tokens is None


META = ["meta_info"]
SGLANG: dict[str, tuple[str, list[Any], Any]] = {
    "minus infinity": ("score_choices", [*META, "output_token_ids_logprobs", 0, 1, 0], -math.inf),
    "not a number": ("score_choices", [*META, "output_token_ids_logprobs", 0, 1, 0], math.nan),
    "a choice is missing": ("score_choices", [*META, "output_token_ids_logprobs", 0, 1], None),
    "no choices": ("score_choices", [*META, "output_token_ids_logprobs"], []),
    "no meta_info": ("score_choices", META, None),
    "not a number in a continuation": ("score_continuation", [*META, "input_token_logprobs", -1, 0], math.nan),
    "another token scored": ("score_continuation", [*META, "input_token_logprobs", -1, 1], 9),
    "a position is missing": ("score_continuation", [*META, "input_token_logprobs", -1], None),
    "nothing of the likeliest": ("score_continuation", [*META, "input_top_logprobs"], []),
}


@pytest.mark.parametrize("what", SGLANG)
def test_a_wrong_answer_of_sglangs_protocol_is_never_scored(what: str) -> None:
    name, path, value = SGLANG[what]
    with pytest.raises((AccuracyError, *UNREADABLE)):
        sglang.read(sglang_question(name), [changed(read_fixture(name)["json"], path, value)])


# Any log-probabilities

IDS = st.integers(0, 99)
NATS = st.floats(-50, 0)


def answer_to(question: Question, rows: list[dict[int, float]], said: int) -> Any:
    """Return vLLM's answer to a question with these log-probabilities by position."""
    before = question.prompt[:-1] if question.continuation else ()
    tops: list[Any] = [None] * (len(before) + 1 - len(rows)) + [
        {f"token_id:{token}": nats for token, nats in row.items()} for row in rows
    ]
    tokens = [f"token_id:{token}" for token in (*before, said)]
    n_sent = len(before) if question.continuation else len(question.context)
    return {
        "choices": [{"text": "", "finish_reason": "length", "logprobs": {"tokens": tokens, "top_logprobs": tops}}],
        "usage": {"prompt_tokens": n_sent, "completion_tokens": 1},
    }


@given(st.lists(IDS, min_size=1, max_size=5), st.dictionaries(IDS, NATS, min_size=1, max_size=8), st.data())
def test_every_choice_gets_its_own_value_at_any_place(
    context: list[int], figures: dict[int, float], data: st.DataObject
) -> None:
    choices = data.draw(st.lists(st.sampled_from(sorted(figures)), min_size=1, unique=True))
    question = Question(context=tuple(context), choices=tuple(choices))
    likeliest = max(figures, key=figures.__getitem__)
    row = {likeliest: figures[likeliest], **dict(data.draw(st.permutations(list(figures.items()))))}
    read = openai.read(question, [answer_to(question, [row], likeliest)])
    assert read.logprobs == tuple(figures[token] for token in choices)
    assert read.greedy == tuple(token == likeliest for token in choices)
    lost = data.draw(st.sampled_from(choices))
    with pytest.raises(AccuracyError, match="leaves out requested tokens"):
        openai.read(question, [answer_to(question, [{t: n for t, n in row.items() if t != lost}], likeliest)])


@given(
    st.lists(IDS, min_size=1, max_size=5),
    st.lists(st.tuples(IDS, NATS, st.integers(100, 199), NATS), min_size=1, max_size=6),
)
def test_a_continuation_is_the_sum_of_its_tokens_and_greedy_if_each_is(
    context: list[int], scored: list[tuple[int, float, int, float]]
) -> None:
    question = Question(context=tuple(context), continuation=tuple(token for token, *_ in scored))
    rows = [{token: nats, other: most} for token, nats, other, most in scored]
    read = openai.read(question, [answer_to(question, rows, said=scored[-1][2])])
    assert read.logprobs == (pytest.approx(sum(nats for _, nats, *_ in scored)),)
    assert read.greedy == (all(most <= nats for _, nats, _, most in scored),)


# Refusals

REFUSALS = {
    "llama.cpp": 'HTTP 500: {"error":{"code":500,"message":"Only no echo is supported","type":"server_error"}}',
    "TensorRT-LLM": "HTTP 400: [{'type': 'extra_forbidden', 'loc': ('body', 'logprob_token_ids')}]",
}


@pytest.mark.parametrize("server", REFUSALS)
def test_a_server_that_cannot_score_is_reported_with_advice(server: str) -> None:
    for name in ("choices", "continuation"):
        message = openai.refusal(vllm.QUESTIONS[name], REFUSALS[server])
        assert message is not None
        assert REFUSALS[server] in message
        assert "accuracy.tasks=" in message
        assert "engine.protocol=sglang" in message
    assert openai.refusal(vllm.QUESTIONS["text"], REFUSALS[server]) is None


def test_non_finite_logits_are_reported_although_vllm_cannot_send_them() -> None:
    reason = f"HTTP 400: {recorded('error_not_finite')}"
    assert "not finite" in str(openai.refusal(vllm.QUESTIONS["choices"], reason))


def test_a_refusal_of_one_question_says_nothing_of_the_others() -> None:
    assert openai.refusal(vllm.QUESTIONS["choices"], f"HTTP 400: {recorded('error_too_long')}") is None
    assert openai.refusal(vllm.QUESTIONS["choices"], "HTTP 503: busy") is None


def test_vllm_takes_as_many_stops_as_are_sent_at_most() -> None:
    assert openai.MAX_STOPS == 4
    assert "at most 4 items" in str(recorded("error_too_many_stops"))
