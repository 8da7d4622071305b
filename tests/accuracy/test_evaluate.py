"""Tasks of all kinds on a server with known answers: scores are right, and unscored items are reported.

The evaluation runs in this process; whole runs are in ``test_accuracy_faults.py``.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from bench.accuracy import asking as asking_module
from bench.errors import AccuracyError
from tests.support.accuracy_jobs import TASKS_DIR, job, outcome, picks, score, values, write_tokenizer
from tests.support.examinee import Body, answer, answering, error, logprob

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of lm-eval and datasets, not of quantbench


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "PAUSE_S", 0.001)


def always(place: int) -> Callable[[int, Body], Body]:
    """Return a server that gives the choice at ``place`` the highest probability."""

    def wrong(number: int, body: Body) -> Body:
        response = answer(body)
        (logprobs,) = response["meta_info"]["output_token_ids_logprobs"]
        logprobs[place][0] = -0.01
        return {**response, "output_ids": [logprobs[place][1]]}

    return wrong


def test_a_score_is_what_the_servers_answers_make_of_it(tokenizer: Path, tmp_path: Path) -> None:
    with answering(always(2)) as server:
        task_score = score(job(server.url, tokenizer, tmp_path))
    assert task_score.status == "ok"
    assert picks(task_score) == ["2"] * 64
    assert values(task_score) == {"acc": 0.25}, "each letter is right for a quarter of the items"
    assert len(server.bodies) == 64
    choices = {tuple(body["input_ids"]): body["token_ids_logprob"] for body in server.bodies}
    expected = {
        tuple(logprob(list(ids), token) if n != 2 else -0.01 for n, token in enumerate(choices[ids])) for ids in choices
    }
    assert {item.logprobs for item in task_score.items} == expected
    assert {item.prompt_tokens for item in task_score.items} == {len(ids) + 1 for ids in choices}


def test_occasional_errors_change_no_score(tokenizer: Path, tmp_path: Path) -> None:
    with answering() as server:
        expected = score(job(server.url, tokenizer, tmp_path, limit=30))
    seen = set[str]()

    def every_tenth_once(number: int, body: Body) -> web.Response | None:
        question = json.dumps(body)
        if question in seen:
            return None
        seen.add(question)
        return None if len(seen) % 10 else error(500)

    with answering(every_tenth_once) as server:
        faulty = score(job(server.url, tokenizer, tmp_path / "faulty", limit=30))
    assert outcome(faulty) == outcome(expected)
    assert faulty.work is not None
    assert (faulty.work.requests, faulty.work.retried, len(server.bodies)) == (30, 3, 33)


def test_asked_backwards_the_score_is_the_same(tokenizer: Path, tmp_path: Path) -> None:
    seen = []
    scores = []
    for repeat in (0, 1):
        with answering() as server:
            repetition = job(server.url, tokenizer, tmp_path / str(repeat), repeat=repeat, concurrency=1, limit=9)
            scores.append(score(repetition))
        seen.append(server.questions)
    assert seen[1] == seen[0][::-1]
    assert [repetition.repeat for repetition in scores] == [0, 1]
    assert scores[0].items == scores[1].items


def test_the_answers_of_a_limited_run_serve_the_full_one(tokenizer: Path, tmp_path: Path) -> None:
    with answering() as server:
        limited = score(job(server.url, tokenizer, tmp_path, limit=12))
        assert (len(server.bodies), limited.n_items, limited.limit) == (12, 12, 12)
        full = score(job(server.url, tokenizer, tmp_path))
    assert (len(server.bodies), full.n_items, full.limit) == (64, 64, None)
    assert full.items[:12] == limited.items
    assert full.work is not None
    assert (full.work.requests, full.work.resumed) == (52, 12)


@pytest.mark.parametrize(
    ("limit", "at_least", "n_items"), [(1, 1, 2), (2, 1, 4), (1, 3, 4), (1, 4, 4), (1, 100, 6), (None, 1, 6)]
)
def test_a_limit_is_of_each_leaf_and_does_not_go_below_so_many_in_all(
    tokenizer: Path, tmp_path: Path, limit: int | None, at_least: int, n_items: int
) -> None:
    with answering() as server:
        task_score = score(job(server.url, tokenizer, tmp_path, "own-group", limit=limit, at_least=at_least), TASKS_DIR)
    assert task_score.n_items == len(task_score.items) == n_items
    assert {item.task for item in task_score.items} == {"own-first", "own-words"}


@pytest.mark.parametrize(("allowed", "status"), [(0.5, "ok"), (0.4, "ok"), (0.3, "invalid"), (0.0, "invalid")])
def test_empty_answers_are_counted_and_too_many_make_a_score_invalid(
    tokenizer: Path, tmp_path: Path, allowed: float, status: str
) -> None:
    def wrong(number: int, body: Body) -> Body | None:
        same = len(body["input_ids"]) == len("the same text")  # two of five items
        return {**answer(body), "text": " \n"} if same else None

    with answering(wrong) as server:
        task_job = job(server.url, tokenizer, tmp_path, "own-answers", max_share={"empty": allowed, "over_long": 0.0})
        task_score = score(task_job, TASKS_DIR)
    assert task_score.status == status
    assert task_score.counts == {"truncated": 0, "empty": 2, "unfinished": 0, "over_long": 0}
    assert [item.problem for item in task_score.items] == [None, None, "empty", "empty", None]
    assert len(task_score.metrics) == 1
    if status == "invalid":
        (reason,) = task_score.reasons
        assert reason.startswith("2 of 5 answers without any text (at most ")
        assert reason.endswith("accuracy.max_share.empty)")


def test_cut_answers_are_counted_and_scored_as_far_as_they_go(tokenizer: Path, tmp_path: Path) -> None:
    def wrong(number: int, body: Body) -> Body:
        response = answer(body)
        response["meta_info"]["finish_reason"] = {"type": "length", "length": 40}
        return {**response, "text": "abc"}

    with answering(wrong) as server:
        response = score(job(server.url, tokenizer, tmp_path, "own-answers"), TASKS_DIR)
    assert (response.status, response.counts["truncated"], values(response)) == ("ok", 5, {"length": 3.0})


def test_choices_that_do_not_fit_fail_the_task_before_anything_is_asked(tokenizer: Path, tmp_path: Path) -> None:
    with answering() as server:
        fits = score(job(server.url, tokenizer, tmp_path, limit=3))
        longest = max(item.prompt_tokens or 0 for item in fits.items)
        assert score(job(server.url, tokenizer, tmp_path, limit=3, max_length=longest)).items == fits.items
        before = len(server.bodies)
        with pytest.raises(AccuracyError) as caught:
            score(job(server.url, tokenizer, tmp_path / "new", limit=3, max_length=longest - 1))
        assert len(server.bodies) == before
    assert f"4 of 12 continuations are longer than the context of {longest - 1} tokens" in str(caught.value)
    assert f"the longest has {longest}" in str(caught.value)
    assert "accuracy.num_fewshot=" in str(caught.value)


@pytest.mark.parametrize(("allowed", "status"), [(0.0, "invalid"), (0.2, "ok")])
def test_prompts_that_do_not_fit_are_not_asked_but_counted(
    tokenizer: Path, tmp_path: Path, allowed: float, status: str
) -> None:
    limits = {"max_length": 200, "max_share": {"over_long": allowed}}
    with answering() as server:
        task_score = score(job(server.url, tokenizer, tmp_path, "own-answers", **limits), TASKS_DIR)
    assert (task_score.status, task_score.counts["over_long"], task_score.n_items) == (status, 1, 5)
    assert max(len(body["input_ids"]) for body in server.bodies) < 200
    assert [item.problem for item in task_score.items][-1] == "over_long"
    assert values(task_score)["length"] == pytest.approx(15 * 4 / 5), "a skipped prompt counts as an empty answer"
    assert [reason.split(" (")[0] for reason in task_score.reasons] == (
        ["1 of 5 items that do not fit into the model's context; they are not asked, and nothing is cut to fit"]
        if status == "invalid"
        else []
    )


@pytest.mark.parametrize(
    ("max_length", "cap", "lengths"), [(4096, None, {40}), (4096, 7, {7}), (210, None, {40, 10}), (210, 25, {25, 10})]
)
def test_an_answer_is_capped_by_its_task_by_the_setting_and_by_the_context(
    tokenizer: Path, tmp_path: Path, max_length: int, cap: int | None, lengths: set[int]
) -> None:
    with answering() as server:
        score(job(server.url, tokenizer, tmp_path, "own-answers", max_length=max_length, max_gen_toks=cap), TASKS_DIR)
    assert {body["sampling_params"]["max_new_tokens"] for body in server.bodies} == lengths
    assert {tuple(body["sampling_params"]["stop"]) for body in server.bodies} == {("\n\n", "Q:")}
    assert {body["sampling_params"]["temperature"] for body in server.bodies} == {0}


def test_stop_texts_are_cut_off_whatever_the_server_does(tokenizer: Path, tmp_path: Path) -> None:
    def wrong(number: int, body: Body) -> Body:
        return {**answer(body), "text": "four\n\nQ: more"}

    with answering(wrong) as server:
        task_score = score(job(server.url, tokenizer, tmp_path, "own-answers"), TASKS_DIR)
    assert picks(task_score) == ["four"] * 5


def test_answers_drawn_at_random_are_drawn_as_often_as_the_task_says_and_kept(tokenizer: Path, tmp_path: Path) -> None:
    task_job = job("", tokenizer, tmp_path, "own-draws")
    with answering() as server:
        task_score = score(task_job.model_copy(update={"base_url": server.url}), TASKS_DIR)
        again = score(task_job.model_copy(update={"base_url": server.url}), TASKS_DIR)
    # The same text twice is two items of two draws each.
    assert len(server.bodies) == 10
    params = server.bodies[0]["sampling_params"]
    assert (params["temperature"], params["top_p"], params["stop"]) == (0.7, 0.9, ["\n\n"])
    assert len(set(picks(task_score))) == 5
    assert picks(task_score) == picks(again)
    assert task_score.items[0].metrics == {"length": pytest.approx(2 * 23)}


def test_one_empty_answer_of_several_to_a_prompt_counts(tokenizer: Path, tmp_path: Path) -> None:
    with answering(lambda number, body: {**answer(body), "text": ""} if number == 1 else None) as server:
        task_score = score(job(server.url, tokenizer, tmp_path, "own-draws", concurrency=1), TASKS_DIR)
    assert sum(item.problem == "empty" for item in task_score.items) == task_score.counts["empty"] == 1


def test_whole_texts_and_choices_of_several_tokens_score_as_the_server_says(tokenizer: Path, tmp_path: Path) -> None:
    with answering() as server:
        words = score(job(server.url, tokenizer, tmp_path, "own-words"), TASKS_DIR)
        texts = score(job(server.url, tokenizer, tmp_path, "own-texts"), TASKS_DIR)
    assert (words.status, texts.status) == ("ok", "ok")
    assert values(words).keys() == {"acc", "acc_norm", "brier_score"}
    first = words.items[0]
    assert first.metrics.keys() == {"acc", "acc_norm"}, "a Brier score is of all items together"
    assert first.logprobs[1] == first.logprobs[2], "the same choice twice"
    sky, green = (encoded(tokenizer, text) for text in ("The sky is", " green"))
    assert first.logprobs[1] == pytest.approx(sum(logprob(sky + green[:n], green[n]) for n in range(len(green))))
    assert values(texts)["word_perplexity"] > 1
    assert texts.items[2].answer == texts.items[3].answer != texts.items[1].answer


def encoded(tokenizer: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return list(AutoTokenizer.from_pretrained(tokenizer)(text)["input_ids"])


def test_a_group_without_a_figure_has_none_and_a_tag_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    with answering() as server:
        loose = score(job(server.url, tokenizer, tmp_path, "own-loose"), TASKS_DIR)
        assert (loose.status, loose.n_items, loose.metrics) == ("ok", 6, ())
        before = len(server.bodies)
        with pytest.raises(AccuracyError, match=r"own-tag is a tag.*accuracy.tasks=\[own-\w+,own-\w+"):
            score(job(server.url, tokenizer, tmp_path, "own-tag"), TASKS_DIR)
        assert len(server.bodies) == before


def test_scores_on_expanded_weights_are_marked_emulated(tokenizer: Path, tmp_path: Path) -> None:
    with answering() as server:
        task_score = score(job(server.url, tokenizer, tmp_path, limit=2, emulates=True))
    assert task_score.status == "emulated"


def test_only_the_task_files_that_are_needed_are_read() -> None:
    from bench.accuracy.evaluate import _manager

    usual = _manager({"mini-mmlu", "mmlu", "ceval-valid", "ifeval"})
    assert {"mini-ifeval", "mmlu", "mmlu_anatomy", "ceval-valid", "ifeval"} <= set(usual.all_tasks)
    assert len(usual.all_tasks) < 200
    assert set(_manager({"mini-mmlu"}).all_tasks) == {"mini-mmlu", "mini-ceval", "mini-ifeval"}
