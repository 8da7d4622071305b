import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.history.series import hodges_lehmann, night_value
from bench.nightly.rule import Judgement, Rule, Track, level_of
from bench.nightly.rule import judge as judge_track

NIGHT_SD, TRIAL_SD = 0.012, 0.009
"""Standard deviations of nights and of trials, as shares: typical of a shared machine."""
RULE = Rule()
speeds = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9)


def judge(accepted: Sequence[float], tonight: float, rerun: float | None = None) -> Judgement:
    return judge_track(Track(Rule(), accepted), tonight, rerun)


def nights(rng: np.random.Generator, n: int, change: float = 0.0, rounds: int = 5, spoiled: float = 0.0) -> list[float]:
    """Return values of nights in which variant and control move together, and the variant also by ``change``."""

    def trials(base: float) -> list[float]:
        noise = rng.normal(0, TRIAL_SD, rounds) - 0.1 * (rng.random(rounds) < spoiled)
        return list(np.exp(base + noise))

    return [night_value(trials(base + math.log1p(change)), trials(base)) for base in rng.normal(0, NIGHT_SD, n)]


def alarms(rng: np.random.Generator, accepted: list[float], change: float) -> bool:
    """Return whether a night with ``change`` is a regression, with a second measurement if the rule needs one."""
    tonight, again = nights(rng, 2, change)
    first = judge(accepted, tonight)
    return first.kind == "rerun" and judge(accepted, tonight, again).kind == "regression"


@given(speeds)
def test_the_estimate_is_between_the_least_and_the_greatest_value(values: list[float]) -> None:
    assert min(values) * (1 - 1e-9) <= hodges_lehmann(values) <= max(values) * (1 + 1e-9)


@given(speeds, st.floats(0.5, 2))
def test_a_slow_down_of_variant_and_control_cancels(values: list[float], night: float) -> None:
    control = [value * 1.1 for value in values]
    slowed = night_value([value * night for value in values], [value * night for value in control])
    assert slowed == pytest.approx(night_value(values, control), abs=1e-9)


def test_one_spoiled_trial_of_five_moves_little() -> None:
    control = [100.0] * 5
    assert night_value([100, 100, 100, 100, 40], control) == 0


@pytest.mark.parametrize(
    ("variant", "control", "message"),
    [([1.0], [1.0, 2.0], "1 trials"), ([0.0], [1.0], "above 0"), ([], [], "no values")],
)
def test_rounds_that_do_not_pair_are_refused(variant: list[float], control: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        night_value(variant, control)


def test_a_young_epoch_is_not_judged() -> None:
    judgement = judge([0.0] * (RULE.least_nights - 1), -0.5)
    assert (judgement.kind, judgement.change) == ("not_enough_data", None)
    assert judge([0.0] * RULE.least_nights, -0.5).kind == "rerun"


def test_an_alarm_wants_a_second_measurement_and_is_dropped_if_that_disagrees() -> None:
    quiet = [0.001, -0.001] * 10
    assert judge(quiet, -0.05).kind == "rerun"
    assert judge(quiet, -0.05, -0.05).kind == "regression"
    assert judge(quiet, -0.03, 0.0).kind == "fine"


def test_a_change_too_small_to_matter_is_fine_however_significant() -> None:
    judgement = judge([0.0] * 20, math.log(0.985))
    assert judgement.z is not None
    assert (judgement.kind, judgement.z < -RULE.z) == ("fine", True)


def test_a_large_change_within_the_usual_spread_is_fine() -> None:
    assert judge([0.03, -0.03] * 10, -0.04).kind == "fine"


def test_a_faster_night_is_no_alarm() -> None:
    assert judge([0.001, -0.001] * 10, 0.05).kind == "faster"


def test_the_level_looks_back_no_further_than_its_window() -> None:
    assert level_of([5.0] * 30 + [1.0] * RULE.window, RULE).median == 1.0


def test_the_cusum_returns_to_zero_after_a_recovery() -> None:
    flat = [0.0] * RULE.window
    assert Track(RULE, [*flat, *[-0.01] * 10]).total > 0
    assert Track(RULE, [*flat, *[-0.01] * 10, *[0.02] * 10]).total == 0


def test_a_step_of_three_percent_is_detected_at_once_and_flat_series_raise_no_alarm() -> None:
    rng = np.random.default_rng(20261126)
    detected = sum(alarms(rng, nights(rng, RULE.window), -0.03) for _ in range(600))
    assert detected / 600 >= 0.85

    false_alarms = 0
    for _ in range(400):
        accepted = nights(rng, RULE.window)
        for tonight in nights(rng, 35):
            first = judge(accepted, tonight)
            final = judge(accepted, tonight, nights(rng, 1)[0]) if first.kind == "rerun" else first
            if final.kind in ("regression", "drift"):
                false_alarms += 1
                break
            accepted.append(tonight)
    assert false_alarms / 400 <= 0.02


def test_a_loss_of_a_thousandth_each_night_is_detected_within_a_month() -> None:
    rng = np.random.default_rng(7)
    detected = 0
    for _ in range(100):
        accepted = nights(rng, RULE.window)
        for night in range(1, 31):
            tonight = nights(rng, 1, -0.001 * night)[0]
            first = judge(accepted, tonight)
            final = judge(accepted, tonight, tonight) if first.kind == "rerun" else first
            if final.kind in ("regression", "drift"):
                detected += 1
                break
            accepted.append(tonight)
    assert detected >= 90
