import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.history.series import EpochMark, value_of
from bench.nightly.course import Course, by_night, night_of, replay
from bench.nightly.rule import Rule
from tests.support.nights import run

RULE = Rule()


def test_a_run_before_midnight_and_one_after_it_are_one_night() -> None:
    assert night_of("2026-11-26T23:10:00+00:00") == night_of("2026-11-27T03:10:00+00:00") == "2026-11-26"
    assert night_of("2026-11-27T13:00:00+00:00") == "2026-11-27"


def test_flat_nights_are_fine_once_there_are_enough() -> None:
    kinds = [night.kind for night in replay(run(day) for day in range(25))]
    assert kinds == ["not_enough_data"] * RULE.least_nights + ["fine"] * (25 - RULE.least_nights)


def test_a_slower_night_needs_a_second_measurement_which_decides() -> None:
    before = [run(day) for day in range(25)]
    slow = run(25, -0.05)
    assert replay([*before, slow])[-1].kind == "rerun"
    again = slow._replace(run_id="again", started_at=slow.started_at.replace("23:00", "23:30"))
    confirmed = replay([*before, slow, again])[-1]
    assert (confirmed.kind, confirmed.run_ids) == ("regression", (slow.run_id, "again"))
    well = run(25)._replace(run_id="again", started_at=again.started_at)
    assert replay([*before, run(25, -0.03), well])[-1].kind == "fine"


def test_an_alarm_stays_an_alarm_until_it_is_accepted() -> None:
    nights = [run(day) for day in range(25)]
    for day in range(25, 40):
        nights += [run(day, -0.05), run(day, -0.05, hour=22)]
    kinds = [night.kind for night in replay(nights)]
    assert kinds[25:] == ["regression"] * 15
    mark = EpochMark(run_id=run(30, hour=22).run_id, reason="the new kernel is worth it", at="2026-02-03")
    judged = replay(nights, [mark])
    assert judged[30].epoch_begins == "the new kernel is worth it"
    assert [night.kind for night in judged[30:]] == ["not_enough_data"] * 8 + ["fine"] * 2


def test_changed_conditions_begin_a_new_epoch() -> None:
    judged = replay([*(run(day) for day in range(25)), *(run(day, -0.1, epoch="b") for day in range(25, 28))])
    assert [night.kind for night in judged[25:]] == ["not_enough_data"] * 3
    assert "changed" in str(judged[25].epoch_begins)
    assert judged[26].epoch_begins is None


@pytest.mark.parametrize(
    ("variant", "control", "status", "reason"),
    [
        ((0.02,) * 5, (0.03,) * 5, "invalid", "the cell is invalid"),
        ((0.02,) * 5, (), "ok", "baseline=bf16"),
        ((0.02,) * 3, (0.03,) * 3, "ok", "workload.trials=5"),
    ],
)
def test_a_night_without_a_value_has_a_reason_and_is_not_counted(
    variant: tuple[float, ...], control: tuple[float, ...], status: str, reason: str
) -> None:
    nights = [run(day) for day in range(20)]
    problem = value_of(variant, control, status)
    assert isinstance(problem, str)
    spoiled = run(20)._replace(value=None, problem=problem)
    judged = replay([*nights, spoiled, run(21)])
    assert (judged[20].kind, judged[20].value) == ("invalid", None)
    assert reason in str(judged[20].reason)
    assert judged[21].kind == "fine"


@given(st.permutations(range(12)))
def test_the_order_in_which_runs_are_given_does_not_matter(order: list[int]) -> None:
    assert replay(run(day) for day in order) == replay(run(day) for day in range(12))


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.001, -0.002, -0.05, 0.04]), min_size=2, max_size=60),
    st.integers(1, 59),
    st.booleans(),
)
def test_a_resumed_course_gives_the_same_judgements(changes: list[float], cut: int, other: bool) -> None:
    nights = by_night(run(day, change, epoch="b" if other and day > 30 else "a") for day, change in enumerate(changes))
    uninterrupted = Course()
    expected = [uninterrupted.step(night) for night in nights]
    stored = Course()
    for night in nights[:cut]:
        stored.step(night)
    resumed = Course()
    resumed.resume(stored.state())
    assert [resumed.step(night) for night in nights[cut:]] == expected[cut:]
    assert resumed.state() == uninterrupted.state()
