"""Constraints and their figures, from records whose figures are known."""

import pytest

from bench.analysis import constraints
from bench.analysis.constraints import (
    Answer,
    Candidate,
    Held,
    Need,
    cell_near,
    decide,
    hold,
    longest_common,
    parse,
    tokens,
)
from bench.messages.message import english
from bench.records.record import RunRecord, SpeedCell
from bench.speed.figures import MeasuredCell
from bench.speed.metrics import Interval
from testkit.records import cell, native_cell, native_record, record, with_score


def figure_of(record: RunRecord, need: Need) -> Interval | str:
    """Return a figure, or why there is none, in English."""
    figure = constraints.figure_of(record, need)
    return figure if isinstance(figure, Interval) else english(figure)


def exactly(value: float) -> Interval:
    return Interval(median=value, low=value, high=value, n=1)


def around(low: float, median: float, high: float) -> Interval:
    return Interval(median=median, low=low, high=high, n=5)


def with_peaks(speed_cell: SpeedCell, *peaks: int | None) -> SpeedCell:
    pairs = zip(speed_cell.trials, peaks, strict=True)
    trials = tuple(trial.model_copy(update={"peak_memory_bytes": peak}) for trial, peak in pairs)
    return speed_cell.model_copy(update={"trials": trials})


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("30k", 30_000), ("2K", 2000), ("1024", 1024)])
def test_numbers_of_tokens_may_be_thousands(text: str, number: int) -> None:
    assert tokens(text) == number


@pytest.mark.parametrize("text", ["0", "0k", "k", "1.5k", "1m", "-1"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tokens(text)


@pytest.mark.parametrize(
    ("text", "relation", "concurrency"),
    [
        ("ttft@1k<2s", "<=", None),
        ("decode@1k/16>=20", ">=", 16),
        ("decode@1k/1>20", ">=", 1),
        ("accuracy_margin=1pp", "<=", None),
        ("mmlu>=0.6", ">=", None),
    ],
)
def test_a_relation_includes_its_bound_and_a_concurrency_may_follow(
    text: str, relation: str, concurrency: int | None
) -> None:
    need = parse(text, ("mmlu",))
    assert (need.text, need.relation, need.concurrency) == (text, relation, concurrency)


@pytest.mark.parametrize(
    ("text", "bound"),
    [("tpot@1k<=5000us", 0.005), ("decode@1k>=2tok/s", 2.0), ("prefill@1k>=3tokens/s", 3.0), ("throughput@1k>=4", 4.0)]
    + [(f"size<={unit}", size) for unit, size in (("2B", 2), ("2KB", 2e3), ("2TB", 2e12), ("2MiB", 2 * 1024**2))],
)
def test_bounds_are_in_seconds_tokens_per_second_and_bytes(text: str, bound: float) -> None:
    assert parse(text, ()).bound == pytest.approx(bound)


def test_the_cell_nearest_to_a_length_is_used_if_it_is_within_a_tenth() -> None:
    run = record(cells=(cell("bf16", 900), cell("bf16", 1060), cell("bf16", 1060, concurrency=8)))

    def place(length: int, concurrency: int | None = None) -> tuple[int, int] | None:
        near = cell_near(run, length, concurrency)
        return (near.input_len, near.concurrency) if near else None

    assert place(1000) == (1060, 1), "60 away, not 100; the fewest at once"
    assert place(1000, 8) == (1060, 8)
    assert place(1000, 2) is None
    assert (place(970), place(990)) == ((900, 1), (1060, 1))
    assert (place(1000, 1), place(819), place(818)) == ((1060, 1), (900, 1), None)
    opened = run.cells[0].model_copy(update={"request_rate_per_s": 2.0})
    assert cell_near(record(cells=(opened,)), 900, None) is None, "an open loop is another load"


def test_memory_is_the_highest_of_any_cell_that_is_not_emulated() -> None:
    need = parse("memory<=1GB", ())
    cells = (
        with_peaks(native_cell("fp8", 1), 10, 30, 20),
        with_peaks(native_cell("fp8", 256), 25, None, 5),
        with_peaks(native_cell("fp8", 1024, status="emulated"), 90, 90, 90),
    )
    assert figure_of(native_record("fp8", cells=cells), need) == exactly(30)
    unknown = with_peaks(native_cell("fp8", 1), None, None, None)
    assert figure_of(native_record("fp8", cells=(unknown,)), need) == "its cells are ok"


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ((), "no speed was measured"),
        ((cell("fp8", 1), cell("fp8", 256)), "its cells are emulated"),
        ((cell("fp8", 1), cell("fp8", 256, status="not_supported")), "its cells are emulated and not supported"),
    ],
)
def test_without_memory_the_states_of_the_cells_are_the_reason(cells: tuple[SpeedCell, ...], reason: str) -> None:
    assert figure_of(record("fp8", cells=cells), parse("memory<=1GB", ())) == reason


def test_a_score_has_its_value_and_the_95_percent_of_its_standard_error() -> None:
    run = record("bf16")
    [score] = [score for score in run.scores if score.task == "mini-mmlu"]
    [metric] = score.metrics
    assert metric.stderr
    figure = figure_of(run, parse("mini-mmlu>=0.6", ("mini-mmlu",)))
    assert isinstance(figure, Interval)
    assert figure.median == metric.value
    assert figure.high - figure.median == pytest.approx(1.96 * metric.stderr)
    assert figure.median - figure.low == pytest.approx(1.96 * metric.stderr)
    assert figure.n == score.n_items
    exact = score.model_copy(update={"metrics": (metric.model_copy(update={"stderr": None}),)})
    assert figure_of(record(scores=(exact,)), parse("mini-mmlu>=0.6", ("mini-mmlu",))) == Interval(
        median=metric.value, low=metric.value, high=metric.value, n=score.n_items
    )


def test_the_score_of_a_task_is_not_that_of_another_or_of_its_repetition() -> None:
    run, need = record("bf16"), parse("mini-ceval>=0.6", ("mini-ceval",))
    [score] = [score for score in run.scores if score.task == "mini-ceval"]
    again = score.model_copy(update={"repeat": 1, "metrics": (score.metrics[0].model_copy(update={"value": 0.0}),)})
    figure = figure_of(record(scores=(again, *run.scores)), need)
    assert isinstance(figure, Interval)
    assert figure.median == score.metrics[0].value
    assert figure_of(record(scores=(again,)), need) == "not scored"


def test_a_score_without_a_figure_says_why() -> None:
    need = parse("mini-mmlu>=0.6", ("mini-mmlu",))
    assert figure_of(record(scores=()), need) == "not scored"
    for status in ("failed", "invalid"):
        assert figure_of(with_score(record(), "mini-mmlu", status=status), need) == f"the score is {status}"
    assert figure_of(with_score(record(), "mini-mmlu", metrics=()), need) == "the score is ok"
    assert isinstance(figure_of(record("fp8"), need), Interval), "an emulated score is one"


def test_speed_is_that_of_the_cell_unless_it_is_emulated() -> None:
    run = native_record("fp8")
    summary = MeasuredCell(run.cells[1]).summary
    for subject, figure in (
        ("ttft", summary.ttft_s),
        ("tpot", summary.tpot_s),
        ("decode", summary.decode_tokens_per_s),
        ("prefill", summary.prefill_tokens_per_s),
        ("throughput", summary.output_tokens_per_s),
    ):
        assert figure_of(run, parse(f"{subject}@256<=1", ())) == figure
    assert figure_of(record("fp8"), parse("tpot@256<=1", ())) == "the cell is emulated"
    missing = figure_of(run, parse("tpot@8k<=1", ()))
    assert missing == "not measured there; measured: 1, 256, 1,024"
    assert figure_of(record(cells=()), parse("tpot@8k<=1", ())) == "not measured there; measured: nothing"
    single = native_cell("fp8", 256, output_len=1)
    assert figure_of(native_record("fp8", cells=(single,)), parse("tpot@256<=1", ())) == (
        "that figure is not defined there"
    )


def test_the_size_is_that_of_the_checkpoint() -> None:
    run, need = record("fp8"), parse("size<=1GB", ())
    assert run.checkpoint is not None
    assert figure_of(run, need) == exactly(run.checkpoint.checkpoint_bytes)
    assert figure_of(record("fp8", checkpoint=None), need) == "there is no checkpoint"


@pytest.mark.parametrize(
    ("text", "figure", "answer"),
    [
        ("ttft@1k<=2", around(1, 1.5, 2), "kept"),
        ("ttft@1k<=2", around(1, 2, 3), "unsure"),
        ("ttft@1k<=2", around(1, 2.1, 3), "broken"),
        ("decode@1k>=2", around(2, 2.5, 3), "kept"),
        ("decode@1k>=2", around(1, 2, 3), "unsure"),
        ("decode@1k>=2", around(1, 1.9, 3), "broken"),
        ("decode@1k>=0", around(-1, 0, 3), "unsure"),
        ("decode@1k>=2", "not measured", "not known"),
    ],
)
def test_a_need_is_kept_by_a_whole_interval_and_unsure_by_its_middle(
    text: str, figure: Interval | str, answer: Answer
) -> None:
    assert hold(figure, parse(text, ()), str).answer == answer


def test_the_reason_shows_the_figure_and_its_interval_where_it_has_one() -> None:
    need = parse("ttft@1k<=2", ())
    assert hold(exactly(1.5), need, str).reason == "1.5"
    assert hold(around(1.0, 1.5, 2.0), need, str).reason == "1.5 (1.0 – 2.0)"
    assert hold(around(1.5, 1.5, 2.0), need, str).reason == "1.5 (1.5 – 2.0)"


def candidate(label: str, *answers: Answer, goal: float | None = 1.0, accuracy: float | None = 0.0) -> Candidate:
    need = parse("size<=1GB", ())
    return Candidate(
        run_id=f"run of {label}",
        label=label,
        held=tuple(Held(need=need, answer=answer, reason=f"reason {place}") for place, answer in enumerate(answers)),
        goal=None if goal is None else exactly(goal),
        accuracy=None if accuracy is None else exactly(accuracy),
        gaps=(),
    )


@pytest.mark.parametrize(
    ("answers", "standing"),
    [
        ((), "kept"),
        (("kept", "unsure"), "unsure"),
        (("unsure", "not known"), "not known"),
        (("not known", "broken", "kept"), "broken"),
    ],
)
def test_the_standing_of_a_candidate_is_its_worst_answer(answers: tuple[Answer, ...], standing: Answer) -> None:
    assert candidate("a", *answers).standing == standing


def test_only_constraints_that_are_not_met_are_reasons_against_a_candidate() -> None:
    assert candidate("a", "kept", "unsure", "broken").why_not == ("size<=1GB: reason 1", "size<=1GB: reason 2")


@pytest.mark.parametrize(("lower", "order"), [(False, ["c", "b", "a"]), (True, ["a", "b", "c"])])
def test_the_best_goal_comes_first(lower: bool, order: list[str]) -> None:
    all_of_them = [candidate("b", goal=2.0), candidate("a", goal=1.0), candidate("c", goal=3.0)]
    decision = decide("speed", "decode", all_of_them, margin=None, lower_is_better=lower)
    assert [each.label for each in decision.ranked] == order
    assert (decision.goal, decision.subject) == ("speed", "decode")
    assert (decision.lower_is_better, decision.fallen) == (lower, ())
    assert decision.recommended is None, "without a margin accuracy was not judged"


def test_the_unsure_come_last_ties_go_by_accuracy_then_name_and_the_others_fall() -> None:
    decision = decide(
        "speed",
        "decode",
        [
            candidate("unsure", "unsure", goal=9.0),
            candidate("no goal", goal=None),
            candidate("worse", goal=5.0, accuracy=-0.01),
            candidate("not scored", goal=5.0, accuracy=None),
            candidate("b", goal=5.0, accuracy=0.0),
            candidate("a", goal=5.0, accuracy=0.0),
            candidate("broken", "broken"),
            candidate("not known", "not known"),
        ],
        margin=None,
        lower_is_better=False,
    )
    ranked = [each.label for each in decision.ranked]
    assert ranked == ["a", "b", "worse", "not scored", "no goal", "unsure"]
    assert [each.label for each in decision.fallen] == ["not known", "broken"]


def test_the_front_is_of_those_with_both_figures() -> None:
    decision = decide(
        "size",
        "size",
        [
            candidate("small", goal=1.0, accuracy=-0.02),
            candidate("large", goal=3.0, accuracy=0.0),
            candidate("beaten", goal=3.0, accuracy=-0.02),
            candidate("not scored", goal=0.5, accuracy=None),
        ],
        margin=None,
        lower_is_better=True,
    )
    assert set(decision.front) == {"run of small", "run of large"}


def measured(*shapes: tuple[int, int]) -> RunRecord:
    return native_record(cells=tuple(native_cell("bf16", length, concurrency=load) for length, load in shapes))


def test_the_longest_loop_that_all_have_measured_is_the_common_one() -> None:
    both = [measured((256, 1), (1024, 4), (1024, 2), (2048, 1)), measured((256, 1), (1024, 2), (1024, 4))]
    assert longest_common(both) == (1024, 2)
    loads = (8, 2, 16, 4)
    for few, many in zip(sorted(loads), sorted(loads)[1:], strict=False):
        assert longest_common([measured((1024, many), (1024, few))]) == (1024, few), "the lightest of the longest"
    assert longest_common([]) is None
    assert longest_common([measured((1, 1)), measured((2, 1))]) is None
    assert longest_common([record("fp8")]) is None, "emulated"
    opened = measured((256, 1)).cells[0].model_copy(update={"request_rate_per_s": 1.0})
    assert longest_common([native_record(cells=(opened,))]) is None, "an open loop"
    single = native_cell("bf16", 256, output_len=1)
    assert longest_common([native_record(cells=(single,))]) is None, "one token has no decode speed"
