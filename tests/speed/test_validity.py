"""Validity of cells: every fault has its reason, and a cell without a fault has none."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import ClientLoad, DeviceState, RequestTrace, Trial
from bench.speed.validity import EMULATED, LEAVE_A_CORE, Validity, broke, check_requests, judge

GOOD: dict[str, Any] = {
    "start_ns": 0,
    "event_ns": (10, 20, 30),
    "event_tokens": (1, 1, 2),
    "end_ns": 31,
    "prompt_tokens": 7,
    "completion_tokens": 4,
    "cached_tokens": 0,
    "finish_reason": "length",
    "error": None,
}
FAULTS = [
    ({"prompt_tokens": 6}, "the server counted 6 prompt tokens where 7 were sent"),
    ({"prompt_tokens": None}, "the server gave no count of prompt tokens"),
    ({"completion_tokens": None}, "the server gave no count of generated tokens"),
    ({"cached_tokens": None}, "the server gave no count of cached tokens"),
    ({"cached_tokens": 5}, "the server took 5 of 7 prompt tokens from its cache"),
    ({"event_tokens": (1, 1, 1)}, "3 tokens arrived where the server counted 4"),
    (
        {"event_tokens": (1, 1, 1), "completion_tokens": 3},
        "the server counted 3 generated tokens where 4 were asked for",
    ),
    ({"finish_reason": "stop"}, "the answer ended with finish reason stop where length was expected"),
    ({"event_ns": (10, 9, 30)}, "the arrival times do not increase from the request's start to its end"),
    ({"event_ns": (0, 20, 30)}, "the arrival times do not increase from the request's start to its end"),
    ({"end_ns": 29}, "the arrival times do not increase from the request's start to its end"),
]
BROKEN = {"error": "the connection failed: reset", "completion_tokens": None, "finish_reason": None}


def trial(*changes: dict[str, Any]) -> Trial:
    requests = tuple(RequestTrace.model_validate(GOOD | change) for change in changes)
    return Trial(requests=requests, started_at="2026-11-24T02:00:00+00:00", peak_memory_bytes=None)


def reasons(*changes: dict[str, Any]) -> tuple[str, ...]:
    return check_requests([trial(*changes)], input_len=7, output_len=4)


def judged(*trials: Trial, **changes: Any) -> Validity:
    return judge(trials, **({"input_len": 7, "output_len": 4, "emulated": False} | changes))


def verdict(*trials: Trial, emulated: bool = False) -> tuple[str, tuple[str, ...]]:
    cell = judged(*trials, emulated=emulated)
    return cell.status, cell.reasons


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_every_fault_has_its_reason(change: dict[str, Any], reason: str) -> None:
    assert reasons(change) == (reason,)
    assert verdict(trial({}), trial(change)) == ("invalid", (f"{reason} (1 of 2 requests)",))


def test_requested_and_received_lengths_are_compared() -> None:
    assert len(check_requests([trial({})], input_len=8, output_len=5)) == 2


def test_without_a_fault_there_is_no_reason() -> None:
    assert reasons({}, {"event_ns": (10, 10, 30)}) == ()
    assert verdict(trial({}), trial({})) == ("ok", ())
    assert verdict(trial({}), emulated=True) == ("emulated", (EMULATED,))


def test_a_broken_request_fails_the_cell_and_is_the_only_reason() -> None:
    status = verdict(trial({}, BROKEN), trial({"cached_tokens": 5}, BROKEN), emulated=True)
    assert status == (
        "failed",
        (
            "the connection failed: reset (2 of 4 requests)",
            "the server took 5 of 7 prompt tokens from its cache (1 of 4 requests)",
        ),
    )


def test_a_count_that_a_server_cannot_give_is_no_fault() -> None:
    blind = trial({"cached_tokens": None}, {"cached_tokens": None})
    assert judged(blind, proves_cache=False).status == "ok"
    assert judged(trial({"cached_tokens": 5}), proves_cache=False).status == "invalid"


def test_requests_that_we_cut_off_ourselves_are_no_faults() -> None:
    cut = {"error": "the queue grew", "finish_reason": None, "completion_tokens": None}
    stopped = trial({}, cut).model_copy(update={"saturated": "the queue grew"})
    assert not broke(stopped)
    cell = judged(stopped)
    assert cell.status == "ok"
    assert "no latencies of a steady load: the queue grew" in cell.warnings[0]
    assert judged(trial({}, cut)).status == "failed"
    assert judged(stopped, trial({}, BROKEN)).status == "failed"


# The machine


def slow(first_ms: float, *, gap_ms: float = 0, tokens: int = 4) -> dict[str, Any]:
    """Return an answer whose first token comes after ``first_ms`` and whose last ``tokens - 1`` gaps later."""
    times = tuple(round((first_ms + gap_ms * index) * 1e6) for index in range(tokens))
    changes = {"event_ns": times, "event_tokens": (1,) * tokens, "end_ns": times[-1] + 1, "completion_tokens": tokens}
    return {**changes, "scheduled_ns": None}


def busy(lag_ms: float, answer: dict[str, Any], cpu_share: float = 0.1) -> Trial:
    lag_ns = round(lag_ms * 1e6)
    return trial(answer).model_copy(
        update={"client": ClientLoad(lag_p99_ns=lag_ns, lag_max_ns=2 * lag_ns, cpu_share=cpu_share)}
    )


@pytest.mark.parametrize(
    ("lag_ms", "answer", "figures"),
    [
        # TTFT of 40 ms may be off by 5 ms, one of 400 ms by 20 ms; a timer's own millisecond does not count.
        (5.9, slow(40), ()),
        (6, slow(40), ()),
        (6.1, slow(40), ("TTFT",)),
        (20.9, slow(400), ()),
        (21.1, slow(400), ("TTFT",)),
        # An answer of 3 x 100 ms may be off by 3 ms, however late its first token was.
        (3.9, slow(1000, gap_ms=100), ()),
        (4.1, slow(1000, gap_ms=100), ("TPOT",)),
        (100, slow(1000, gap_ms=100), ("TTFT", "TPOT")),
        (0.9, slow(1, gap_ms=0.1), ()),
    ],
)
def test_a_late_event_loop_spoils_what_it_can_shift(
    lag_ms: float, answer: dict[str, Any], figures: tuple[str, ...]
) -> None:
    cell = judged(busy(lag_ms, answer))
    assert (cell.status, len(cell.warnings)) == ("ok", len(figures))
    for reason, figure in zip(cell.warnings, figures, strict=True):
        assert reason.startswith(f"client_bound: its event loop was {lag_ms:.1f} ms late (p99), which can put {figure}")


def test_late_timestamps_are_reported_with_their_trials() -> None:
    answer = slow(1000, gap_ms=100)
    calm, late = busy(1, answer), busy(30, answer)
    cell = judged(calm, late, calm)
    assert cell.status == "ok"
    assert cell.warnings == (
        "client_bound: its event loop was 30.0 ms late (p99), which can put TPOT off by 9.7 %; its answers last 300 ms "
        f"(1 of 3 trials); {LEAVE_A_CORE}",
    )
    assert judged(calm, late, busy(9, answer)).warnings == (cell.warnings[0].replace("1 of 3", "2 of 3"),)


def test_a_client_without_a_core_left_is_bound() -> None:
    cell = judged(busy(0.5, slow(100, gap_ms=100), cpu_share=0.97))
    assert cell.reasons == (f"client_bound: it used 97 % of a core, where 90 % is the limit; {LEAVE_A_CORE}",)
    assert cell.status == "invalid"
    calm = busy(0.5, slow(100, gap_ms=100), cpu_share=0.89)
    assert judged(calm).status == "ok"
    assert judged(calm, calm, busy(0.5, slow(100, gap_ms=100), cpu_share=0.97)).status == "ok"


def on_device(before: dict[str, Any], after: dict[str, Any]) -> Trial:
    def state(changes: dict[str, Any]) -> DeviceState:
        values = {
            "index": 0,
            "sm_clock_mhz": 1980,
            "memory_clock_mhz": 2619,
            "temperature_celsius": 60,
            "power_w": 500.0,
        }
        return DeviceState.model_validate({**values, "memory_used_bytes": 1, "throttled": (), **changes})

    return trial(slow(100)).model_copy(update={"devices_before": (state(before),), "devices_after": (state(after),)})


@pytest.mark.parametrize("word", ["HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "SwThermalSlowdown"])
def test_a_slowed_down_accelerator_makes_no_figure(word: str) -> None:
    for sick in (on_device({"throttled": (word,)}, {}), on_device({}, {"throttled": (word,)})):
        cell = judged(sick, sick)
        assert cell.status == "invalid"
        assert cell.reasons[0].startswith(f"the accelerator was slowed down ({word} on device 0)")
        assert len(cell.reasons) == 1


def test_a_power_limit_and_falling_clocks_are_warnings() -> None:
    cell = judged(on_device({}, {"throttled": ("SwPowerCap",), "sm_clock_mhz": 1800}))
    assert cell.status == "ok"
    assert cell.warnings == (
        "the accelerator ran at its power limit (SwPowerCap on device 0)",
        "the SM clock of device 0 fell from 1980 to 1800 MHz; lock it with nvidia-smi -lgc",
    )
    steady = judged(on_device({"sm_clock_mhz": 345}, {"throttled": ("ApplicationsClocksSetting",)}))
    assert steady.warnings == ()
    assert judged(on_device({}, {"sm_clock_mhz": None})).warnings == ()


# Comparison of trials


def test_an_outlier_is_named_and_counts() -> None:
    cell = judged(trial(slow(100)), trial(slow(101)), trial(slow(190)))
    assert cell.status == "ok"
    assert "trial 3 is an outlier: TTFT 190 ms, where the median is 101 ms; it counts" in cell.warnings
    assert any("TTFT differs between trials" in text and "workload.trials" in text for text in cell.warnings)
    assert judged(trial(slow(100)), trial(slow(100)), trial(slow(104))).warnings == ()
    # The median deviation of the first four is 10 ms, 14.8 ms as a standard deviation.
    spread = [trial(slow(ms)) for ms in (90, 90, 110, 110, 100)]
    for ms, named in ((140, False), (160, True)):
        warnings = judged(*spread, trial(slow(ms))).warnings
        assert any(text.startswith("trial 6 is an outlier") for text in warnings) == named, warnings
    assert judged(trial(slow(100)), trial(slow(109))).warnings == ()


def test_trials_may_differ_by_a_tenth_of_their_mean() -> None:
    for difference_ms, n_warnings in ((500, 0), (501, 1)):
        trials = [trial(slow(5000 + difference_ms * place)) for place in (-1, 0, 1)]
        assert len(judged(*trials).warnings) == n_warnings
    assert "TTFT differs between trials" in judged(trial(slow(100)), trial(slow(120))).warnings[0]


@pytest.mark.parametrize(("values_ms", "outlier"), [((100, 100, 104.9), False), ((100, 100, 105.1), True)])
def test_an_outlier_is_at_least_a_twentieth_from_the_median(values_ms: tuple[float, ...], outlier: bool) -> None:
    warnings = judged(*(trial(slow(ms)) for ms in values_ms)).warnings
    assert [text.startswith("trial 3 is an outlier") for text in warnings] == [True] * outlier
    assert judged(trial(slow(100)), trial(slow(106))).warnings == (), "two trials have no median to be far from"


def test_an_unsettled_open_loop_is_reported() -> None:
    def due(index: int, first_ms: float) -> dict[str, Any]:
        return {**slow(first_ms), "start_ns": index * 10**8, "scheduled_ns": index * 10**8}

    rising = trial(*(due(index, 100 + 5 * index) for index in range(60)))
    level = trial(*(due(index, 100 + index % 7) for index in range(60)))
    assert any("took longer and longer" in text for text in judged(rising).warnings)
    assert judged(level).warnings == ()


changes = st.sampled_from([{}, BROKEN, *(change for change, _ in FAULTS)])
waves = st.lists(st.lists(changes, min_size=1, max_size=4), min_size=1, max_size=4)


@given(waves, st.booleans())
def test_a_status_follows_from_the_faults(faults: list[list[dict[str, Any]]], emulated: bool) -> None:
    status, why = verdict(*(trial(*wave) for wave in faults), emulated=emulated)
    requests = [change for wave in faults for change in wave]
    if BROKEN in requests:
        assert status == "failed"
    elif any(requests):
        assert status == "invalid"
    else:
        assert status == ("emulated" if emulated else "ok")
    assert bool(why) == (status != "ok")
    assert len(set(why)) == len(why)


@given(waves, st.randoms())
def test_order_changes_no_verdict(faults: list[list[dict[str, Any]]], rng: Any) -> None:
    shuffled = rng.sample(faults, k=len(faults))
    first, second = (verdict(*(trial(*wave) for wave in waves)) for waves in (faults, shuffled))
    assert first[0] == second[0]
    assert set(first[1]) == set(second[1])
