"""The definitions, on traces computed by hand and on arbitrary ones."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import Objective, RequestTrace, Trial
from bench.speed.metrics import (
    batch_prefill_tokens_per_s,
    bootstrap_median,
    busy_ns,
    decode_tokens_per_s,
    e2e_s,
    good_share,
    goodput_requests_per_s,
    is_good,
    is_saturated,
    itl_s,
    output_tokens_per_s,
    overhead,
    percentiles,
    prefill_tokens_per_s,
    qwen_speed_tokens_per_s,
    requests_per_s,
    summarize,
    tpot_s,
    ttft_s,
)
from testkit.records import cell

MS = 1_000_000


def trace(*events: tuple[int, int], **changes: Any) -> RequestTrace:
    """Return a trace of (nanoseconds, tokens) events after a prompt of 100 tokens."""
    values: dict[str, Any] = {
        "start_ns": 0,
        "event_ns": tuple(at for at, _ in events),
        "event_tokens": tuple(tokens for _, tokens in events),
        "end_ns": events[-1][0] if events else 1,
        "prompt_tokens": 100,
        "completion_tokens": sum(tokens for _, tokens in events),
        "cached_tokens": 0,
        "finish_reason": "length",
        "error": None,
    }
    return RequestTrace.model_validate(values | changes)


def wave(*requests: RequestTrace) -> Trial:
    return Trial(requests=requests, started_at="2026-11-24T02:00:00+00:00", peak_memory_bytes=None)


def test_definitions_on_a_trace_worked_out_by_hand() -> None:
    # 2 tokens after 200 ms, then 1 after 50 ms and 3 after another 150 ms: 4 later tokens in 200 ms.
    request = trace((200 * MS, 2), (250 * MS, 1), (400 * MS, 3))
    assert ttft_s(request) == pytest.approx(0.2)
    assert tpot_s(request) == pytest.approx(0.05)
    assert decode_tokens_per_s(request) == pytest.approx(20)
    assert prefill_tokens_per_s(request) == pytest.approx(500)
    assert e2e_s(request) == pytest.approx(0.4)
    assert qwen_speed_tokens_per_s(request) == pytest.approx(106 / 0.4)


def test_what_is_not_defined_is_none() -> None:
    one_token, one_event, nothing = trace((5, 1)), trace((5, 7)), trace()
    assert (tpot_s(one_token), tpot_s(one_event), tpot_s(nothing)) == (None, None, None)
    assert decode_tokens_per_s(one_token) is None
    assert (ttft_s(nothing), e2e_s(nothing), qwen_speed_tokens_per_s(nothing)) == (None, None, None)
    uncounted = trace((5, 1), prompt_tokens=None)
    assert (prefill_tokens_per_s(uncounted), qwen_speed_tokens_per_s(uncounted)) == (None, None)
    assert output_tokens_per_s(wave(nothing)) is None


def test_output_rate_is_of_the_whole_wave() -> None:
    late = trace((100 * MS, 1), (300 * MS, 9), start_ns=200 * MS)
    # 10 + 10 tokens between 0 and 200 + 300 ms.
    assert output_tokens_per_s(wave(trace((50 * MS, 10)), late)) == pytest.approx(40)


def test_a_trial_counts_with_the_median_of_its_requests() -> None:
    slow = wave(*(trace((ms * MS, 1)) for ms in (100, 200, 900)))
    fast = wave(*(trace((ms * MS, 1)) for ms in (100, 100, 900)))
    summary = summarize(cell("bf16", 100, trials=2).model_copy(update={"trials": (slow, fast)}))
    assert summary.ttft_s is not None
    assert (summary.ttft_s.median, summary.ttft_s.low, summary.ttft_s.high) == pytest.approx((0.15, 0.1, 0.2))
    assert summary.ttft_s.n == summary.n_trials == 2


def test_a_summary_has_every_figure_and_is_always_the_same() -> None:
    aimed = cell("bf16", 256).model_copy(update={"objective": Objective(ttft_s=1, tpot_s=1)})
    first, again = summarize(aimed), summarize(aimed)
    assert first is again, "computed once"
    assert all(value is not None for value in first.model_dump().values())
    assert first.peak_memory_bytes == max(trial.peak_memory_bytes or 0 for trial in aimed.trials)


# Loads


def test_latencies_of_an_open_loop_count_from_when_a_request_was_due() -> None:
    late = trace((200 * MS, 1), (400 * MS, 2), start_ns=900 * MS, scheduled_ns=600 * MS)
    assert (ttft_s(late), e2e_s(late), tpot_s(late)) == pytest.approx((0.5, 0.7, 0.1))
    assert prefill_tokens_per_s(late) == pytest.approx(200)


def test_a_batch_is_prefilled_when_its_last_first_token_is_there() -> None:
    later = trace((350 * MS, 1), start_ns=50 * MS)
    assert batch_prefill_tokens_per_s(wave(trace((100 * MS, 1)), later)) == pytest.approx(200 / 0.4)
    assert batch_prefill_tokens_per_s(wave(trace((100 * MS, 1)), trace((5, 1), prompt_tokens=None))) is None
    batch = cell("bf16", 256, concurrency=4)
    together, in_turn = summarize(batch), summarize(batch.model_copy(update={"n_requests": 8}))
    assert together.batch_prefill_tokens_per_s is not None
    assert in_turn.batch_prefill_tokens_per_s is None


def test_goodput_counts_requests_that_keep_the_objective() -> None:
    objective = Objective(ttft_s=0.2, tpot_s=0.05)
    good = trace((200 * MS, 1), (250 * MS, 1))
    late, slow = trace((201 * MS, 1), (250 * MS, 1)), trace((100 * MS, 1), (500 * MS, 2))
    one_token, nothing = trace((100 * MS, 1)), trace()
    assert [is_good(request, objective) for request in (good, late, slow, one_token, nothing)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    trial = wave(good, late, slow, one_token)
    assert requests_per_s(trial) == pytest.approx(8)
    assert good_share(trial, objective) == pytest.approx(0.5)
    assert goodput_requests_per_s(trial, objective) == pytest.approx(4)
    assert good_share(wave(), objective) is None


def test_pauses_are_between_arrivals() -> None:
    assert itl_s(trace((100, 1), (100, 1), (400, 3), (500, 1))) == pytest.approx([3e-7, 1e-7])


def test_a_percentile_is_given_only_where_there_are_enough() -> None:
    assert percentiles([]) is None
    few, some, many = (percentiles([float(value) for value in range(n)]) for n in (19, 20, 200))
    assert few is not None
    assert some is not None
    assert many is not None
    assert (few.p50, few.p90, few.p99) == (9, None, None)
    assert (some.p90, some.p99) == (pytest.approx(17.1), None)
    assert many.p99 == pytest.approx(197.01)


def test_more_than_a_server_can_take_has_a_rate_and_no_latency() -> None:
    measured = cell("bf16", 256, concurrency=4)
    stopped = measured.trials[1].model_copy(update={"saturated": "the queue grew"})
    full = measured.model_copy(
        update={"trials": (measured.trials[0], stopped), "objective": Objective(ttft_s=1, tpot_s=1)}
    )
    assert is_saturated(full)
    summary = summarize(full)
    defined = {name for name, value in summary.model_dump().items() if value is not None}
    assert defined == {"n_trials", "output_tokens_per_s", "peak_memory_bytes"}


def test_overhead_is_what_is_left_of_the_time() -> None:
    measured = cell("bf16", 256).model_copy(update={"warmup_ns": 10**9})
    spent = busy_ns(measured)
    assert spent == 10**9 + sum(max(r.start_ns + r.end_ns for r in trial.requests) for trial in measured.trials)
    timed = measured.model_copy(update={"wall_ns": spent * 2})
    assert overhead([timed, timed]) == pytest.approx(0.5)
    assert overhead([timed], wall_s=spent / 1e9 * 4) == pytest.approx(0.75)
    assert overhead([cell("bf16", 1)]) is None


def test_one_output_token_has_no_decode_speed() -> None:
    summary = summarize(cell("bf16", 256, output_len=1))
    assert (summary.tpot_s, summary.decode_tokens_per_s) == (None, None)
    assert summary.ttft_s is not None


def test_a_median_of_one_has_no_spread_and_of_none_is_none() -> None:
    single = bootstrap_median([3.0, None])
    assert single is not None
    assert (single.median, single.low, single.high, single.n) == (3, 3, 3, 1)
    assert bootstrap_median([None]) is None


def test_the_interval_holds_the_true_median_about_as_often_as_it_says() -> None:
    rng, n_hits = random.Random(7), 0
    for _ in range(300):
        interval = bootstrap_median([rng.gauss(5, 1) for _ in range(25)])
        assert interval is not None
        n_hits += interval.low <= 5 <= interval.high
    assert 0.90 < n_hits / 300 < 0.99


events = st.lists(st.tuples(st.integers(1, 10**10), st.integers(1, 8)), min_size=2, max_size=30).map(sorted)
figures = st.sampled_from([ttft_s, tpot_s, e2e_s, decode_tokens_per_s, prefill_tokens_per_s, qwen_speed_tokens_per_s])
TIMES = (ttft_s, tpot_s, e2e_s)


@given(events, figures, st.integers(2, 1000))
def test_slower_by_a_factor_is_slower_by_that_factor(arrivals: list[tuple[int, int]], figure: Any, factor: int) -> None:
    before, after = figure(trace(*arrivals)), figure(trace(*((at * factor, tokens) for at, tokens in arrivals)))
    if before is None:
        assert after is None
    else:
        assert after == pytest.approx(before * factor if figure in TIMES else before / factor)


@given(events, figures, st.data())
def test_an_event_may_as_well_come_in_two(arrivals: list[tuple[int, int]], figure: Any, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(arrivals) - 1))
    time, tokens = arrivals[at]
    part = data.draw(st.integers(1, tokens))
    parts = [(time, part), (time, tokens - part)] if part < tokens else [(time, tokens)]
    split = [*arrivals[:at], *parts, *arrivals[at + 1 :]]
    assert figure(trace(*split)) == figure(trace(*arrivals))


@given(events)
def test_figures_bound_each_other(arrivals: list[tuple[int, int]]) -> None:
    request = trace(*arrivals)
    ttft, tpot, e2e = ttft_s(request), tpot_s(request), e2e_s(request)
    assert ttft is not None
    assert e2e is not None
    assert 0 < ttft <= e2e
    if tpot is not None:
        tokens = sum(request.event_tokens)
        assert 0 < tpot * (tokens - request.event_tokens[0]) <= (e2e - ttft) * tokens * (1 + 1e-9)
        gaps = [b - a for (a, _), (b, _) in pairwise(arrivals)]
        assert tpot <= max(gaps) / 1e9 * (1 + 1e-9)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12), st.sampled_from([0.5, 2.0, 1024.0]))
def test_an_interval_holds_its_median_and_scales(values: list[float], factor: float) -> None:
    interval = bootstrap_median(values)
    scaled = bootstrap_median(value * factor for value in values)
    assert interval is not None
    assert scaled is not None
    assert min(values) <= interval.low <= interval.median <= interval.high <= max(values)
    assert (scaled.low, scaled.high) == (interval.low * factor, interval.high * factor)
    assert bootstrap_median(values) == interval
