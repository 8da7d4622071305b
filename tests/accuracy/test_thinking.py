"""Models that reason before they answer: the template is set, reasoning is removed, truncated answers are counted.

A server with known answers replaces the model. The chat templates are the relevant part of Qwen3's, and one of a model
that does not reason.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.compose import compose_job
from bench.errors import AccuracyError
from bench.records.record import TaskScore
from tests.support.accuracy_jobs import (
    PLAIN,
    QWEN3,
    TASKS_DIR,
    job,
    picks,
    requests,
    score,
    served,
    values,
    write_tokenizer,
)
from tests.support.examinee import Body, Examinee, answer, answering

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of lm-eval and datasets, not of quantbench


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("qwen3"), template=QWEN3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("plain"), template=PLAIN)


def saying(text: str, *, cut: bool = False) -> Callable[[int, Body], Body]:
    """Return a server that answers this text, truncated at the limit if ``cut``."""

    def wrong(number: int, body: Body) -> Body:
        response = answer(body)
        response["meta_info"]["finish_reason"] = {"type": "length" if cut else "stop"}
        return {**response, "text": text}

    return wrong


def ask(
    tokenizer: Path, folder: Path, text: str, *, cut: bool = False, thinking: bool = True, **changes: Any
) -> tuple[TaskScore, Examinee]:
    """Return the score of five prompts, all answered with the same text, and their server."""
    with answering(saying(text, cut=cut)) as server:
        fields = {"chat_template": True, "thinking": thinking, **changes}
        return score(job(server.url, tokenizer, folder, "own-answers", **fields), TASKS_DIR), server


def prompts(server: Examinee, tokenizer: Path) -> set[str]:
    from transformers import AutoTokenizer

    reader = AutoTokenizer.from_pretrained(tokenizer)
    return {reader.decode(body["input_ids"]) for body in server.bodies}


@pytest.mark.parametrize("thinking", [True, False])
def test_whether_to_reason_reaches_the_template(qwen3: Path, tmp_path: Path, thinking: bool) -> None:
    task_score, server = ask(qwen3, tmp_path, "fine", thinking=thinking)
    begin = "<|im_start|>user\na short text<|im_end|>\n<|im_start|>assistant\n"
    assert (begin + ("" if thinking else "<think>\n\n</think>\n\n")) in prompts(server, qwen3)
    assert (task_score.chat_template, task_score.thinking, task_score.status) == (True, thinking, "ok")


def test_without_a_template_there_is_neither_template_nor_reasoning(qwen3: Path, tmp_path: Path) -> None:
    task_score, server = ask(qwen3, tmp_path, "fine", thinking=False, chat_template=False)
    assert "a short text" in prompts(server, qwen3)
    assert (task_score.chat_template, task_score.thinking) == (False, None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nhm\n</think>\n\nfour", "four"),
        ("the template has begun the reasoning</think>four", "four"),
        ("<think>one</think> no, </think>\n four ", "four "),
        ("four, at once", "four, at once"),
        # Stop texts in the reasoning end nothing; in the answer they do.
        ("<think>\n\nfirst\n\nQ: second\n\n</think>\n\nfour\n\nfive", "four"),
        ("<think>Q:</think>fourQ: more", "four"),
    ],
)
def test_the_answer_is_what_follows_the_last_end_of_reasoning(
    qwen3: Path, tmp_path: Path, text: str, answer: str
) -> None:
    task_score, _ = ask(qwen3, tmp_path, text)
    assert picks(task_score) == [answer] * 5
    assert values(task_score) == {"length": len(answer)}
    assert set(task_score.counts.values()) == {0}


@pytest.mark.parametrize("thinking", [True, False])
def test_stop_texts_are_sent_only_where_they_cannot_end_the_reasoning(
    qwen3: Path, tmp_path: Path, thinking: bool
) -> None:
    _, server = ask(qwen3, tmp_path, "fine", thinking=thinking)
    stops = {tuple(body["sampling_params"].get("stop", ())) for body in server.bodies}
    assert stops == ({()} if thinking else {("\n\n", "Q:")})


@pytest.mark.parametrize(("allowed", "status"), [(0.05, "invalid"), (1.0, "ok")])
def test_answers_cut_while_reasoning_are_unfinished_and_invalidate_a_score(
    qwen3: Path, tmp_path: Path, allowed: float, status: str
) -> None:
    task_score, _ = ask(qwen3, tmp_path, "<think>\nthe answer is four, or", cut=True, max_share={"unfinished": allowed})
    assert task_score.status == status
    assert task_score.counts == {"truncated": 0, "empty": 0, "unfinished": 5, "over_long": 0}
    assert picks(task_score) == [""] * 5, "unfinished reasoning is not scored"
    if status == "invalid":
        (reason,) = task_score.reasons
        assert reason.startswith("5 of 5 answers cut off while the model was still reasoning")
        assert "accuracy.max_share.unfinished" in reason


def test_cut_after_its_reasoning_an_answer_is_scored_as_far_as_it_goes(qwen3: Path, tmp_path: Path) -> None:
    task_score, _ = ask(qwen3, tmp_path, "<think>hm</think>\n\nthe answer is fo", cut=True)
    assert task_score.counts == {"truncated": 5, "empty": 0, "unfinished": 0, "over_long": 0}
    assert picks(task_score) == ["the answer is fo"] * 5


@pytest.mark.parametrize("cut", [True, False])
def test_reasoning_without_an_answer_is_empty(qwen3: Path, tmp_path: Path, cut: bool) -> None:
    task_score, _ = ask(qwen3, tmp_path, "<think>hm</think>\n\n", cut=cut)
    assert task_score.counts["empty"] == 5


def test_a_model_that_cannot_reason_is_rejected_before_any_request(plain: Path, tmp_path: Path) -> None:
    with answering() as server:
        fields = {"chat_template": True, "thinking": True}
        with pytest.raises(AccuracyError) as caught:
            score(job(server.url, plain, tmp_path, "own-answers", **fields), TASKS_DIR)
        assert not server.bodies
    assert str(caught.value) == (
        "accuracy.thinking=true: this model's chat template has no reasoning that ends with </think>"
    )


def test_of_a_model_that_does_not_reason_nothing_is_stripped(plain: Path, tmp_path: Path) -> None:
    task_score, server = ask(plain, tmp_path, "  in html, </think> is nothing", thinking=False)
    assert picks(task_score) == ["  in html, </think> is nothing"] * 5
    assert "user: a short text\nassistant:" in prompts(server, plain)


def test_the_cap_on_answers_goes_by_whether_the_task_lets_the_model_reason(qwen3: Path, tmp_path: Path) -> None:
    def cap(task: str, *overrides: str) -> int | None:
        caps = ["accuracy.max_gen_toks=90", "accuracy.max_thinking_toks=700"]
        return compose_job(["+model=tiny-qwen3", *caps, *overrides, "session=test"]).accuracy.cap_of(task)

    assert [cap("mini-ifeval"), cap("mini-mmlu")] == [90, 90]
    thinking = "accuracy.thinking=true"
    assert [cap("mini-ifeval", thinking), cap("mini-mmlu", thinking)] == [700, 90]
    assert cap("mini-ifeval", thinking, "accuracy.chat_template=[]") == 90
    assert cap("mini-mmlu", "accuracy.max_gen_toks=null") is None
    _, server = ask(qwen3, tmp_path, "fine", max_gen_toks=700)
    assert {body["sampling_params"]["max_new_tokens"] for body in server.bodies} == {700}


def test_more_stop_texts_than_a_server_takes_are_applied_afterwards(qwen3: Path, tmp_path: Path) -> None:
    many = [f"stop {n}." for n in range(40)]
    with answering(saying("four stop 39. more")) as server, served(server.url, qwen3, tmp_path / "journal") as lm:
        settings = {"max_gen_toks": 9}
        asked = requests(("x", {**settings, "until": many}), ("y", {**settings, "until": ["", *many[:32]]}))
        texts = lm.generate_until(asked)
    assert texts == ["four ", "four stop 39. more"]
    n_stops = {len(body["sampling_params"].get("stop", ())) for body in server.bodies}
    assert n_stops == {0, 32}
