"""``quantbench decide``: constraints are parsed and checked, and the ranking follows from them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.constraints import UNITS, front, hold, parse
from bench.commands.decide import NOTHING, main
from bench.errors import ConfigError
from bench.records.record import Failure, RunRecord
from bench.report.decision import decision
from bench.speed.metrics import Interval
from testkit.records import (
    QUANTS,
    controlled_record,
    demo_records,
    keep,
    native_record,
    native_records,
    record,
    unharmed,
    with_score,
)

TASKS = ("mini-mmlu", "mmlu")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for native in native_records():
        keep(tmp_path, native)
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
        ("accuracy_margin=0.5%", "accuracy_margin", None, 0.005),
        ("accuracy_margin=0.02", "accuracy_margin", None, 0.02),
        ("mini-mmlu>=60%", "mini-mmlu", None, 0.6),
        ("size<=500MB", "size", None, 5e8),
    ],
)
def test_constraints_are_parsed(text: str, subject: str, at: int | None, bound: float) -> None:
    need = parse(text, TASKS)
    assert (need.subject, need.input_len) == (subject, at)
    assert need.bound == pytest.approx(bound)


@given(st.sampled_from(sorted(UNITS["bytes"])), st.integers(1, 999))
def test_every_unit_of_memory_counts(unit: str, number: int) -> None:
    assert parse(f"memory<={number}{unit.upper()}", ()).bound == number * UNITS["bytes"][unit]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory", "is not a constraint"),
        ("decode@1k/0>=1", "the concurrency after / is at least 1"),
        ("memory<=24XB", "'XB' is not a unit of memory"),
        ("speed<=2", "nothing is called 'speed'"),
        ("ttft<=2s", "say at which input length: ttft@30k<=2s"),
        ("memory@30k<=2GB", "memory has no input length"),
        ("ttft@30k<=1.2.3s", "that is not a number"),
        ("size=3GB", "write <= or >="),
    ],
)
def test_an_invalid_constraint_is_reported(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        parse(text, TASKS)


@given(st.floats(1, 100), st.floats(0, 10), st.floats(1, 100))
def test_a_constraint_is_met_only_by_the_complete_interval(middle: float, half: float, bound: float) -> None:
    figure = Interval(median=middle, low=middle - half, high=middle + half, n=5)
    answer = hold(figure, parse(f"ttft@1k<={bound!r}", ()), str).answer if bound == round(bound, 6) else None
    if answer is not None:
        assert (answer == "kept") == (middle + half <= bound)
        assert (answer == "broken") == (middle > bound)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_has_the_candidates_that_no_other_beats(points: list[tuple[int, int]]) -> None:
    named = [(str(place), float(x), float(y)) for place, (x, y) in enumerate(points)]
    chosen = set(front(named))
    assert chosen
    for name, x, y in named:
        beaten = any(a >= x and b >= y and (a > x or b > y) for _, a, b in named)
        assert (name in chosen) == (not beaten)


def test_without_constraints_the_fastest_that_loses_no_accuracy_is_recommended() -> None:
    choice = decision([unharmed(quant) for quant in QUANTS])
    assert str(choice.goal) == "highest decode speed at 1,024 input tokens, concurrency 1"
    assert choice.recommended
    assert choice.recommended.label == "gptq-int4"
    assert len(choice.ranked) == len(QUANTS)
    assert "gptq-int4" in {candidate.label for candidate in choice.ranked if candidate.run_id in choice.front}


def test_without_a_margin_constraint_the_declared_margin_applies(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "Use bf16: of the variants that meet all constraints, it has the highest decode speed at 1,024"
    )
    assert "\nAccuracy margin: 1 pp, as the runs declare.\n" in text
    assert call(results, "accuracy_margin=40pp") == 0
    text = capsys.readouterr().out
    assert text.startswith("Use gptq-int4: of the variants that meet all constraints, it has the highest decode speed")
    assert "\nAccuracy margin: 40 pp, as given (the runs declare 1 pp).\n" in text


def test_the_declared_margin_applies_instead_of_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quant in ("bf16", "gptq-int4"):
        keep(tmp_path, unharmed(quant, margin=0.0001))
    assert call(tmp_path) == 0
    text = capsys.readouterr().out
    assert text.startswith("Use bf16:")
    assert "Accuracy margin: 0.01 pp, as the runs declare." in text


def test_of_different_margins_the_strictest_applies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quant, margin in (("bf16", 0.01), ("fp8", 0.02), ("gptq-int4", 0.0001)):
        keep(tmp_path, unharmed(quant, margin))
    assert call(tmp_path) == 0
    text = capsys.readouterr().out
    assert text.startswith("Use bf16:")
    assert "Accuracy margin: 0.01 pp, the strictest of those that the runs declare (0.01 pp, 2 pp)." in text
    assert call(tmp_path, "accuracy_margin=1pp", "--format", "json") == 0
    choice = json.loads(capsys.readouterr().out)
    assert choice["ranked"][0]["label"] == "gptq-int4"
    assert choice["margin"] == {"value": 0.01, "origin": "given", "declared": [0.0001, 0.02]}


def test_without_accuracy_nothing_is_recommended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quant in ("bf16", "gptq-int4"):
        keep(tmp_path, native_record(quant, scores=()))
    assert call(tmp_path, "decode@1k>=1") == NOTHING
    text = capsys.readouterr().out
    assert text.startswith(
        "No variant is recommended: no accuracy was measured. gptq-int4 has the highest decode speed"
    )
    assert "Accuracy margin" not in text


BOTH = ("mini-mmlu", "mini-ceval")
EMPTY = "270 of 541 answers without any text"
Case = tuple[dict[str, RunRecord], str, str]
TROUBLES: dict[str, Case] = {
    "invalid": (
        {"gptq-int4": with_score(unharmed("gptq-int4", tasks=BOTH), "mini-ceval", status="invalid", reasons=(EMPTY,))},
        "fails",
        f"mini-mmlu non-inferior; mini-ceval: invalid ({EMPTY})",
    ),
    "failed": (
        {"gptq-int4": with_score(unharmed("gptq-int4", tasks=BOTH), "mini-ceval", status="failed", reasons=("NaN",))},
        "fails",
        "mini-mmlu non-inferior; mini-ceval: failed (NaN)",
    ),
    "missing": ({"gptq-int4": unharmed("gptq-int4")}, "not known", "mini-mmlu non-inferior; mini-ceval: not measured"),
    "nothing measured": (
        {"gptq-int4": unharmed("gptq-int4", scores=(), failures=(Failure(stage="serve", message="no memory"),))},
        "not known",
        "mini-mmlu: not measured (serve failed); mini-ceval: not measured (serve failed)",
    ),
    "invalid for BF16": (
        {"bf16": with_score(unharmed("bf16", tasks=BOTH), "mini-ceval", status="invalid", reasons=(EMPTY,))},
        "not known",
        f"mini-mmlu non-inferior; mini-ceval: BF16 invalid ({EMPTY})",
    ),
    "invalid for both": (
        {
            quant: with_score(unharmed(quant, tasks=BOTH), "mini-ceval", status="invalid", reasons=(EMPTY,))
            for quant in ("bf16", "gptq-int4")
        },
        "not known",
        f"mini-mmlu non-inferior; mini-ceval: BF16 invalid ({EMPTY})",
    ),
    "missing for BF16": (
        {"bf16": unharmed("bf16")},
        "not known",
        "mini-mmlu non-inferior; mini-ceval: BF16 not measured",
    ),
    "asked otherwise": (
        {"gptq-int4": with_score(unharmed("gptq-int4", tasks=BOTH), "mini-ceval", num_fewshot=3)},
        "not known",
        "mini-mmlu non-inferior; mini-ceval: different numbers of few-shot examples: 5 and 3",
    ),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_a_task_without_a_verdict_is_never_dropped(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records, place, reason = TROUBLES[case]
    for quant in ("bf16", "gptq-int4"):
        keep(tmp_path, records.get(quant) or unharmed(quant, tasks=BOTH))
    assert call(tmp_path, "accuracy_margin=1pp", "--format", "json") == 0
    choice = json.loads(capsys.readouterr().out)
    assert [candidate["label"] for candidate in choice["ranked"]] == ["bf16"]
    [fallen] = choice["fallen"]
    assert fallen["held"][0]["reason"] == reason
    assert fallen["accuracy"] is None
    assert fallen["run_id"] not in choice["front"]
    assert call(tmp_path) == 0
    text = capsys.readouterr().out
    assert text.startswith("Use bf16:")
    [row] = [line for line in text.splitlines() if "gptq-int4" in line]
    assert place in row
    assert "not complete" in row
    assert call(tmp_path, "size<=200MB") == NOTHING
    assert capsys.readouterr().out.startswith("No variant meets all constraints.")


def test_a_task_that_is_invalid_for_bf16_is_named_in_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for quant in ("bf16", "gptq-int4"):
        keep(tmp_path, TROUBLES["invalid for BF16"][0].get(quant) or unharmed(quant, tasks=BOTH))
    assert call(tmp_path, "--format", "json") == 0
    [baseline] = json.loads(capsys.readouterr().out)["ranked"]
    assert baseline["held"][0]["reason"] == f"it is the baseline; mini-ceval: invalid ({EMPTY})"


def test_a_second_margin_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "accuracy_margin=2pp", "accuracy_margin=1pp") == 2
    assert "accuracy_margin=2pp and accuracy_margin=1pp: give one accuracy margin" in capsys.readouterr().err


def test_emulated_speeds_decide_nothing() -> None:
    choice = decision(demo_records(), ["decode@1k>=1"])
    assert str(choice.goal) == "smallest checkpoint"
    assert [candidate.label for candidate in choice.ranked] == ["bf16"]
    assert all(candidate.why_not[0] == "decode@1k>=1: the cell is emulated" for candidate in choice.fallen)


@pytest.mark.parametrize(
    ("constraints", "reasons"),
    [
        ((), ""),
        (("ttft@256<=1s",), "ttft@256<=1s: the cell is emulated; "),
        (("ttft@9k<=1s",), "ttft@9k<=1s: not measured there; measured: 1, 256, 1,024; "),
    ],
)
def test_a_single_emulated_variant_is_not_judged(
    constraints: tuple[str, ...], reasons: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, record("fp8"))
    assert call(tmp_path, *constraints) == NOTHING
    sentence = f"No variant can be judged: {reasons}accuracy_margin=1pp: no task is compared with BF16.\n"
    assert capsys.readouterr().out.startswith(sentence)


def test_a_load_that_was_not_measured_is_named_with_those_that_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, native_record("fp8"))
    assert call(tmp_path, "decode@1k/64>=1") == NOTHING
    assert "decode@1k/64>=1: not measured there; measured: 1/1, 256/1, 1,024/1" in capsys.readouterr().out


def test_reasons_why_nothing_can_be_judged_are_counted_where_they_are_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, native_record("fp8"))
    needs = ("ttft@30k<=1s", "tpot@30k<=1s", "decode@30k>=1")
    assert call(tmp_path, *needs) == NOTHING
    missing = "not measured there; measured: 1, 256, 1,024"
    assert capsys.readouterr().out.startswith(
        f"No variant can be judged: ttft@30k<=1s: {missing}; 3 more reasons below.\n"
    )


def test_a_variant_that_loses_accuracy_fails() -> None:
    choice = decision(native_records(), ["accuracy_margin=1pp"])
    assert choice.recommended
    labels = {candidate.label: candidate.standing for candidate in (*choice.ranked, *choice.fallen)}
    assert labels["bf16"] == "kept"
    worse = {candidate.label for candidate in choice.fallen if "worse" in candidate.why_not[0]}
    assert worse == {label for label, standing in labels.items() if standing == "broken"}
    kept_first = [candidate.standing for candidate in choice.ranked]
    assert kept_first == sorted(kept_first)


def test_an_unmeasured_value_is_not_known() -> None:
    choice = decision(native_records(), ["ttft@30k<=100s"])
    assert choice.recommended is None
    assert choice.fallen[0].why_not == ("ttft@30k<=100s: not measured there; measured: 1, 256, 1,024",)


def test_other_goals(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "--goal", "size", "--format", "json") == 0
    choice = json.loads(capsys.readouterr().out)
    assert choice["ranked"][0]["label"] == "bf16"  # the only variant that is proven to be within the margin
    sizes = [candidate["goal"]["median"] for candidate in choice["ranked"][1:]]
    assert sizes == sorted(sizes)
    assert choice["lower_is_better"]
    assert choice["goal"] == "smallest checkpoint", "a message is its English text where it is written"


def test_the_text_output_recommends_a_variant_and_gives_reasons_for_the_others(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, "size<=200MB") == 0
    text = capsys.readouterr().out
    assert text.startswith("Use gptq-int4: highest decode speed at 1,024 input tokens, concurrency 1, though one or")
    assert "fails" in text
    assert "size<=200MB: 269 MB" in text
    assert call(results, "size<=1MB") == NOTHING
    assert "No variant meets all constraints." in capsys.readouterr().out


def test_an_interleaved_baseline_can_be_recommended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, controlled_record("fp8"))
    assert call(tmp_path, "--goal", "tpot@256", "--format", "json") == 0
    choice = json.loads(capsys.readouterr().out)
    assert [candidate["label"] for candidate in choice["ranked"]] == ["bf16"]
    assert choice["fallen"][0]["held"][0]["reason"] == "no task is compared with BF16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("memory",), "is not a constraint"),
        (("--goal", "beauty"), "goal 'beauty' is not known"),
        (("--of", "fp9"), "did you mean 'fp8'?"),
        (("accuracy_margin=1",), "accuracy_margin=1 would accept any loss; write accuracy_margin=1pp (or 0.01)"),
        (("accuracy_margin=5",), "accuracy_margin=5 would accept any loss; write accuracy_margin=5pp (or 0.05)"),
        (("accuracy_margin=100",), "accuracy_margin=100 would accept any loss; write accuracy_margin=1pp (or 0.01)"),
        (("accuracy_margin=0.7",), "accuracy_margin=0.7 is out of range: a margin is more than 0 and at most 50 pp"),
        (("accuracy_margin=99pp",), "accuracy_margin=99pp is out of range"),
        (("accuracy_margin=0pp",), "accuracy_margin=0pp is out of range"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    results: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_two_models_cannot_be_ranked_together(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other: RunRecord = native_record(run_id="other")
    keep(results, other.model_copy(update={"variant": other.variant.model_copy(update={"model": "tiny-qwen3"})}))
    assert call(results) == 2
    assert "runs of 2 models (smollm2-135m, tiny-qwen3)" in capsys.readouterr().err
