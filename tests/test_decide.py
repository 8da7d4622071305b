"""``quantbench decide``: needs are parsed, kept, unsure or broken, and the ranking follows from them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.decide import UNITS, front, hold, parse
from bench.decide import NOTHING, main
from bench.errors import ConfigError
from bench.record import RunRecord
from bench.report.decision import decision
from bench.speed.metrics import Interval
from tests.records import QUANTS, controlled_record, demo_records, keep, native_record, native_records

TASKS = ("mini-mmlu", "mmlu")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for one in native_records():
        keep(tmp_path, one)
    return tmp_path


def call(results: Path, *words: str) -> int:
    return main([*words, "--results", str(results)])


@pytest.mark.parametrize(
    ("text", "subject", "at", "bound"),
    [
        ("memory<=24GB", "memory", None, 24e9),
        ("memory <= 24 GiB", "memory", None, 24 * 2**30),
        ("ttft@30k<=2s", "ttft", 30_000, 2.0),
        ("tpot@1024/16<50ms", "tpot", 1024, 0.05),
        ("decode@30K>=20", "decode", 30_000, 20.0),
        ("accuracy_margin=1pp", "accuracy_margin", None, 0.01),
        ("mini-mmlu>=60%", "mini-mmlu", None, 0.6),
        ("size<=500MB", "size", None, 5e8),
    ],
)
def test_constraints_are_understood(text: str, subject: str, at: int | None, bound: float) -> None:
    need = parse(text, TASKS)
    assert (need.subject, need.input_len) == (subject, at)
    assert need.bound == pytest.approx(bound)


@given(st.sampled_from(sorted(UNITS["bytes"])), st.integers(1, 999))
def test_every_unit_of_memory_counts(unit: str, number: int) -> None:
    assert parse(f"memory<={number}{unit.upper()}", ()).bound == number * UNITS["bytes"][unit]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memory", "is no constraint"),
        ("memory<=24XB", "'XB' is no unit of memory"),
        ("speed<=2", "nothing is called 'speed'"),
        ("ttft<=2s", "say at which input length: ttft@30k<=2s"),
        ("memory@30k<=2GB", "memory has no input length"),
        ("ttft@30k<=1.2.3s", "that is no number"),
        ("size=3GB", "write <= or >="),
    ],
)
def test_what_is_no_constraint_is_said(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        parse(text, TASKS)


@given(st.floats(1, 100), st.floats(0, 10), st.floats(1, 100))
def test_a_need_is_kept_only_by_the_whole_interval(middle: float, half: float, bound: float) -> None:
    figure = Interval(median=middle, low=middle - half, high=middle + half, n=5)
    answer = hold(figure, parse(f"ttft@1k<={bound!r}", ()), str).answer if bound == round(bound, 6) else None
    if answer is not None:
        assert (answer == "kept") == (middle + half <= bound)
        assert (answer == "broken") == (middle > bound)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    named = [(str(place), float(x), float(y)) for place, (x, y) in enumerate(points)]
    chosen = set(front(named))
    assert chosen
    for name, x, y in named:
        beaten = any(a >= x and b >= y and (a > x or b > y) for _, a, b in named)
        assert (name in chosen) == (not beaten)


def test_without_constraints_the_fastest_is_recommended() -> None:
    found = decision(native_records())
    assert found.goal == "highest decode speed at 1,024 input tokens, 1 at once"
    assert found.recommended
    assert found.recommended.label == "gptq-int4"
    assert len(found.ranked) == len(QUANTS)
    assert "gptq-int4" in {one.label for one in found.ranked if one.run_id in found.front}


def test_emulated_speeds_decide_nothing() -> None:
    found = decision(demo_records(), ["decode@1k>=1"])
    assert found.goal == "smallest checkpoint"
    assert [one.label for one in found.ranked] == ["bf16"]
    assert all(one.why_not == ("decode@1k>=1: the cell is emulated",) for one in found.fallen)


def test_a_loss_of_accuracy_makes_a_variant_fall() -> None:
    found = decision(native_records(), ["accuracy_margin=1pp"])
    assert found.recommended
    labels = {one.label: one.standing for one in (*found.ranked, *found.fallen)}
    assert labels["bf16"] == "kept"
    worse = {one.label for one in found.fallen if "worse" in one.why_not[0]}
    assert worse == {label for label, standing in labels.items() if standing == "broken"}
    kept_first = [one.standing for one in found.ranked]
    assert kept_first == sorted(kept_first)


def test_what_was_not_measured_is_not_known() -> None:
    found = decision(native_records(), ["ttft@30k<=100s"])
    assert found.recommended is None
    assert found.fallen[0].why_not == ("ttft@30k<=100s: not measured there; measured: 1, 256, 1,024",)


def test_other_goals(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "--goal", "size", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    sizes = [one["goal"]["median"] for one in found["ranked"]]
    assert sizes == sorted(sizes)
    assert found["lower_is_better"]


def test_people_are_told_what_to_use_and_why_not_the_others(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "size<=200MB") == 0
    text = capsys.readouterr().out
    assert text.startswith("Use gptq-int4: highest decode speed at 1,024 input tokens, 1 at once.")
    assert "falls" in text
    assert "size<=200MB: 269 MB" in text
    assert call(results, "size<=1MB") == NOTHING
    assert "No variant keeps every constraint." in capsys.readouterr().out


def test_a_baseline_served_beside_can_be_recommended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, controlled_record("fp8"))
    assert call(tmp_path, "--goal", "tpot@256", "--format", "json") == 0
    assert [one["label"] for one in json.loads(capsys.readouterr().out)["ranked"]] == ["fp8", "bf16"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("memory",), "is no constraint"),
        (("--goal", "beauty"), "goal 'beauty' is not known"),
        (("--of", "fp9"), "did you mean 'fp8'?"),
    ],
)
def test_wrong_words_get_one_line(
    results: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_two_models_cannot_be_ranked_together(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other: RunRecord = native_record(run_id="other")
    keep(results, other.model_copy(update={"variant": other.variant.model_copy(update={"model": "tiny-qwen3"})}))
    assert call(results) == 2
    assert "runs of 2 models (smollm2-135m, tiny-qwen3)" in capsys.readouterr().err
