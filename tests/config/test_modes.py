"""Thinking and plain answers as two modes of one model, each sampled as its authors recommend."""

from pathlib import Path
from typing import Any

import pytest

from bench.accuracy.protocols import openai, sglang
from bench.accuracy.questions import Question, Sampling
from bench.config.compose import compose_job
from bench.config.spec import RunSpec
from bench.errors import ConfigError
from bench.records.record import Mode
from bench.report.sections.accuracy import sampling_words
from tests.support.accuracy_jobs import QWEN3, TASKS_DIR, job, score, write_tokenizer
from tests.support.examinee import answering

THINKING = Mode(temperature=0.6, top_p=0.95, top_k=20)
PLAIN = Mode(temperature=0.7, top_p=0.8, top_k=20)
GREEDY = Mode(temperature=0)
HYBRID, THINKER, TALKER = "+model=qwen3-8b", "+model=qwen3-4b-thinking-2507", "+model=qwen2.5-7b-instruct"


def spec(*overrides: str) -> RunSpec:
    return compose_job([*overrides, "accuracy=full", "session=test"])


@pytest.mark.parametrize(
    ("overrides", "thinking", "sampling"),
    [
        ((HYBRID,), False, None),
        ((HYBRID, "accuracy.thinking=true"), True, THINKING),
        ((HYBRID, "accuracy.sampling=recommended"), False, PLAIN),
        ((HYBRID, "accuracy.sampling=greedy"), False, GREEDY),
        ((HYBRID, "accuracy.thinking=true", "accuracy.sampling=greedy"), True, GREEDY),
        ((HYBRID, "accuracy.sampling={temperature: 1, min_p: 0.1}"), False, Mode(temperature=1, min_p=0.1)),
        ((THINKER,), True, THINKING),
        ((TALKER,), False, None),
        (("+model=smollm2-135m",), False, None),
        (("+model=smollm2-135m", "accuracy.thinking=true"), True, None),
    ],
)
def test_a_mode_is_chosen_with_its_sampling(overrides: tuple[str, ...], thinking: bool, sampling: Mode | None) -> None:
    accuracy = spec(*overrides).accuracy
    assert (accuracy.thinking, accuracy.sampling) == (thinking, sampling)
    assert accuracy.sampling_of("mmlu") is None, "log-probabilities are not sampled"
    assert accuracy.sampling_of("ifeval") == sampling


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((TALKER, "accuracy.thinking=true"), "qwen2.5-7b-instruct answers in plain mode only"),
        ((THINKER, "accuracy.thinking=false"), "answers in thinking mode only"),
        (("+model=smollm2-135m", "accuracy.sampling=recommended"), "no recommendation for smollm2-135m"),
        ((HYBRID, "accuracy.sampling=hot"), "expected auto, greedy, recommended or"),
        ((HYBRID, "accuracy.sampling={temperature: -1}"), "accuracy.sampling.temperature"),
        ((HYBRID, "accuracy.sampling={temperature: 1, heat: 1}"), "accuracy.sampling.heat: no such field"),
    ],
)
def test_an_unsupported_mode_or_sampling_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(*overrides)


def test_a_mode_that_no_task_needs_is_not_checked() -> None:
    run = spec(THINKER, "accuracy.thinking=false", "accuracy.tasks=[mmlu]")
    assert run.accuracy.thinking is False


def test_two_modes_of_one_model_are_two_rows() -> None:
    thinking, plain = (spec(HYBRID, f"accuracy.thinking={mode}").variant.model for mode in ("true", "false"))
    assert (thinking, plain) == ("qwen3-8b[thinking=true]", "qwen3-8b[thinking=false]")


def test_a_seed_is_the_questions_own_and_the_same_in_every_run() -> None:
    first, second = (
        Question(context=(token,), sampling=Sampling(max_new_tokens=9, stop=(), temperature=0.6)) for token in (1, 2)
    )
    assert first.seeded(0) == first.seeded(0)
    assert first.seeded(0) != first.seeded(1)
    seeds = {question.seeded(0).sampling.seed for question in (first, second, first.model_copy(update={"nth": 1}))}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)
    greedy = Question(context=(1,), sampling=Sampling(max_new_tokens=9, stop=(), temperature=0))
    assert greedy.seeded(5) == greedy


def test_each_protocol_sends_the_sampling_parameters() -> None:
    how = Sampling(max_new_tokens=9, stop=(), temperature=0.6, top_p=0.95, top_k=20, min_p=0.1)
    question = Question(context=(1,), sampling=how).seeded(0)
    assert question.sampling is not None
    [native] = sglang.requests(question, "")
    [standard] = openai.requests(question, "m")
    shared = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1}
    assert {name: native["sampling_params"][name] for name in shared} == shared
    assert {name: standard[name] for name in shared} == shared
    assert native["sampling_params"]["sampling_seed"] == standard["seed"] == question.sampling.seed


@pytest.mark.filterwarnings("ignore")
def test_a_run_samples_as_configured_and_records_it_in_the_score(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    tokenizer = write_tokenizer(tmp_path / "qwen3", template=QWEN3)
    bodies: list[dict[str, Any]] = []
    for number in (1, 2):
        with answering() as server:
            fields = {"chat_template": True, "thinking": True, "sampling": THINKING}
            found = score(job(server.url, tokenizer, tmp_path / str(number), "own-answers", **fields), TASKS_DIR)
            bodies.append({str(body["input_ids"]): body["sampling_params"] for body in server.bodies})
    assert found.sampling == THINKING
    assert bodies[0] == bodies[1], "the same draws in every run"
    for params in bodies[0].values():
        assert (params["temperature"], params["top_p"], params["top_k"]) == (0.6, 0.95, 20)
    assert len({params["sampling_seed"] for params in bodies[0].values()}) == len(bodies[0])


def test_a_report_says_how_tokens_were_drawn() -> None:
    assert str(sampling_words(THINKING)) == "temperature 0.6, top-p 0.95, top-k 20"
    assert str(sampling_words(GREEDY)) == "greedy"
    assert str(sampling_words(Mode(temperature=1))) == "temperature 1"


def test_min_p_draws_nothing_rarer() -> None:
    torch = pytest.importorskip("torch")
    from bench.servers.reference.protocol import SamplingParams
    from bench.servers.reference.sampling import choose

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)
    for min_p, drawn_ids in ((0.0, {0, 1, 2, 3}), (0.2, {0, 1, 2}), (0.5, {0, 1}), (1.0, {0})):
        params = SamplingParams(temperature=1.0, min_p=min_p)
        assert {choose(logits, params, generator) for _ in range(400)} == drawn_ids
