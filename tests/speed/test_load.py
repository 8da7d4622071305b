"""Arrival times, the order of shapes, and the saturation of open loops: on queues with known times."""

import heapq
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import Objective
from bench.speed.load import arrivals_ns, fell_behind, in_order, saturation, warm_up_requests
from bench.speed.shapes import Shape, closed_loop, shape_of
from testkit.records import cell


def opened(rate: float, n: int = 400, input_len: int = 8) -> Shape:
    return Shape(input_len=input_len, output_len=4, concurrency=10_000, request_rate_per_s=rate, n_requests=n)


def queue(came_s: Sequence[float], servers: int, service_s: float) -> list[float]:
    """Return when requests leave a first-come-first-served queue."""
    free, ends = [0.0] * servers, []
    for at_s in came_s:
        end_s = max(at_s, heapq.heappop(free)) + service_s
        heapq.heappush(free, end_s)
        ends.append(end_s)
    return ends


def verdict(rate: float, servers: int, seed: int, n: int = 400, most: int = 10_000) -> str | None:
    """Return the verdict on a queue whose servers need a second for a request."""
    came_s = [at / 1e9 for at in arrivals_ns(opened(rate), seed=seed, wave=1, n=n)]
    left_s = queue(came_s, servers, 1.0)
    for index, now_s in enumerate(came_s):
        ends = sorted(at for at in left_s[:index] if at <= now_s)
        fastest_s = 1.0 if ends else None
        reason = saturation(came_s[:index], ends, now_s=now_s, fastest_s=fastest_s, most=most)
        if reason:
            return reason
    return fell_behind(came_s, sorted(left_s), fastest_s=1.0)


@pytest.mark.parametrize("servers", [1, 8])
def test_a_queue_that_keeps_up_is_not_called_growing(servers: int) -> None:
    assert [verdict(load * servers, servers, seed) for load in (0.5, 0.9) for seed in range(10)] == [None] * 20


@pytest.mark.parametrize("servers", [1, 8])
def test_a_queue_with_twice_its_capacity_is_saturated(servers: int) -> None:
    verdicts = [verdict(2 * servers, servers, seed) for seed in range(10)]
    assert all(text and text.startswith("the queue grew: in the last ") for text in verdicts)


def test_a_short_trial_is_judged_by_how_long_it_took_in_the_end() -> None:
    verdicts = [verdict(32, 8, seed, n=100) for seed in range(10)]
    assert all(text and "were all answered only" in text for text in verdicts)


def test_too_many_concurrent_requests_are_saturation() -> None:
    assert saturation([0.1] * 6, [0.2], now_s=0.3, fastest_s=0.1, most=5) is not None
    assert saturation([0.1] * 6, [0.2] * 2, now_s=0.3, fastest_s=0.1, most=5) is None
    assert saturation([], [], now_s=0.0, fastest_s=None, most=1) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted), st.floats(0.01, 5))
def test_a_server_that_answers_everything_at_once_is_never_saturated(sent_s: list[float], latency_s: float) -> None:
    ends = [at for at in sent_s if at + latency_s <= sent_s[-1]]
    assert (
        saturation(sent_s, ends, now_s=sent_s[-1], fastest_s=latency_s, most=len(sent_s) + 1) is None
        or len(sent_s) > 29
    )
    assert fell_behind(sent_s, [at + latency_s for at in sent_s], fastest_s=latency_s) is None


def test_arrivals_are_poisson_and_follow_from_the_seed() -> None:
    times_ns = arrivals_ns(opened(5), seed=3, wave=1, n=20_000)
    assert times_ns == arrivals_ns(opened(5), seed=3, wave=1, n=20_000)
    assert times_ns != arrivals_ns(opened(5), seed=3, wave=2, n=20_000)
    gaps = np.diff(times_ns) / 1e9
    assert gaps.min() >= 0
    # Mean and standard deviation of an exponential gap are the same.
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.std() == pytest.approx(0.2, rel=0.05)


def test_a_warm_up_has_the_concurrency_or_the_rate_of_its_shape() -> None:
    assert warm_up_requests(closed_loop(8, 4, 16, per_slot=4)) == 16
    assert [warm_up_requests(opened(2, n)) for n in (5, 50, 400)] == [5, 8, 40]


shapes = st.lists(
    st.one_of(
        st.builds(opened, st.sampled_from([0.5, 1.0, 2.0, 8.0]), input_len=st.sampled_from([8, 16])),
        st.builds(closed_loop, st.integers(1, 9), st.just(4), st.integers(1, 4)),
    ),
    max_size=12,
    unique=True,
)


@given(shapes, st.integers())
def test_an_order_is_complete_and_its_rates_rise(candidates: list[Shape], seed: int) -> None:
    order = in_order(candidates, seed)
    assert sorted(order, key=str) == sorted(candidates, key=str)
    assert in_order(candidates, seed) == order
    for length in (8, 16):
        rates = [shape.request_rate_per_s for shape in order if shape.request_rate_per_s and shape.input_len == length]
        assert rates == sorted(rates)


def test_seeds_give_different_orders() -> None:
    many = [closed_loop(n, 4, 1) for n in range(1, 9)]
    assert len({str(in_order(many, random.randrange(10**6))) for _ in range(5)}) > 1


def test_a_cell_has_every_field_of_its_shape() -> None:
    shape = opened(2.0).model_copy(update={"objective": Objective(ttft_s=1, tpot_s=1)})
    assert shape.model_fields_set == Shape.model_fields.keys()
    assert shape_of(cell("bf16", 8).model_copy(update=dict(shape))) == shape
