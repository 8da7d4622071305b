"""What may become a number: every fault has its reason, and nothing without a fault has one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import RequestTrace, Trial
from bench.speed.validity import EMULATED, check_trial, judge

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
    return check_trial(trial(*changes), input_len=7, output_len=4)


def verdict(*trials: Trial, emulated: bool = False) -> tuple[str, tuple[str, ...]]:
    return judge(trials, input_len=7, output_len=4, emulated=emulated)


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_every_fault_has_its_reason(change: dict[str, Any], reason: str) -> None:
    assert reasons(change) == (reason,)
    assert verdict(trial({}), trial(change)) == ("invalid", (f"{reason} (1 of 2 requests)",))


def test_what_was_asked_for_is_held_against_what_came() -> None:
    assert len(check_trial(trial({}), input_len=8, output_len=5)) == 2


def test_without_a_fault_there_is_no_reason() -> None:
    assert reasons({}, {"event_ns": (10, 10, 30)}) == ()
    assert verdict(trial({}), trial({})) == ("ok", ())
    assert verdict(trial({}), emulated=True) == ("emulated", (EMULATED,))


def test_a_broken_request_fails_the_cell_and_is_told_alone() -> None:
    found = verdict(trial({}, BROKEN), trial({"cached_tokens": 5}, BROKEN), emulated=True)
    assert found == (
        "failed",
        (
            "the connection failed: reset (2 of 4 requests)",
            "the server took 5 of 7 prompt tokens from its cache (1 of 4 requests)",
        ),
    )


changes = st.sampled_from([{}, BROKEN, *(change for change, _ in FAULTS)])
waves = st.lists(st.lists(changes, min_size=1, max_size=4), min_size=1, max_size=4)


@given(waves, st.booleans())
def test_a_status_follows_from_the_faults(found: list[list[dict[str, Any]]], emulated: bool) -> None:
    status, why = verdict(*(trial(*wave) for wave in found), emulated=emulated)
    requests = [change for wave in found for change in wave]
    if BROKEN in requests:
        assert status == "failed"
    elif any(requests):
        assert status == "invalid"
    else:
        assert status == ("emulated" if emulated else "ok")
    assert bool(why) == (status != "ok")
    assert len(set(why)) == len(why)


@given(waves, st.randoms())
def test_order_changes_no_verdict(found: list[list[dict[str, Any]]], rng: Any) -> None:
    shuffled = rng.sample(found, k=len(found))
    first, second = (verdict(*(trial(*wave) for wave in waves)) for waves in (found, shuffled))
    assert first[0] == second[0]
    assert set(first[1]) == set(second[1])
