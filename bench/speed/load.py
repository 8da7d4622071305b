"""Schedule requests: arrival times, the order of shapes, and when an open loop saturates the server.

Pure functions. An open loop sends each request at its due time, however late earlier answers are, and latencies count
from the due time. A client that waits for answers before it sends omits exactly those requests that a slow server would
have delayed most (coordinated omission; G. Tene, "How NOT to measure latency", 2013).
"""

import hashlib
import random
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from bench.speed.shapes import Shape

NS_PER_S = 1e9
FEWEST_ARRIVALS = 30
"""Fewest arrivals in the later half of the time for a queue to count as growing. Chosen: with fewer, four standard
deviations would be most of them."""
TIMES_OF_A_REQUEST = 8
"""A full server may take this many times as long for a request as an empty one; before that it may still be filling up
(simulated, see :func:`saturation`)."""
STANDARD_DEVIATIONS = 4
"""Shortfall of completions that is not due to chance: one in 30,000 for a normal distribution."""
WARM_UP_SHARE = 0.1
WARM_UP_FEWEST = 8
"""Share of an open loop's requests that warm up, and their least number. Chosen: includes every batch size of a light
load."""


def generator(seed: int, shape: Shape, wave: int, what: str) -> np.random.Generator:
    """Return the random generator for one wave, which depends on the arguments only.

    Args:
        seed: seed of the sweep.
        shape: part of the seed; its words must not change, or old prompts cannot be drawn again.
        wave: 0 is the warm-up.
        what: distinguishes the uses within one wave.
    """
    text = f"{seed}/{shape.input_len}/{shape.output_len}/{shape.load}/{shape.n_requests}/{wave}/{what}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def arrivals_ns(shape: Shape, *, seed: int, wave: int, n: int) -> tuple[int, ...]:
    """Return when each of ``n`` requests of an open loop is due, in nanoseconds since the wave began.

    Gaps are exponential with mean 1 / rate, which is the Poisson process of many independent users.
    """
    assert shape.request_rate_per_s is not None
    gaps_s = generator(seed, shape, wave, "arrivals").exponential(1 / shape.request_rate_per_s, n)
    return tuple((np.cumsum(gaps_s) * NS_PER_S).astype(np.int64).tolist())


def warm_up_requests(shape: Shape) -> int:
    """Return the number of requests that warm a server up for a shape.

    For a closed loop, one per slot, all at once, which covers every batch size of the shape; for an open loop, the
    first tenth of its requests, at its rate.
    """
    if shape.request_rate_per_s is None:
        return shape.concurrency
    return min(shape.n_requests, max(WARM_UP_FEWEST, round(WARM_UP_SHARE * shape.n_requests)))


def in_order(shapes: Sequence[Shape], seed: int) -> list[Shape]:
    """Return the shapes in a random order from ``seed``; open loops of equal lengths stay in order of rate."""
    order = random.Random(seed).sample(shapes, k=len(shapes))
    places: dict[tuple[int, int], list[int]] = {}
    for place, shape in enumerate(order):
        if shape.request_rate_per_s is not None:
            places.setdefault((shape.input_len, shape.output_len), []).append(place)
    for group in places.values():
        rising = sorted((order[place] for place in group), key=lambda shape: shape.request_rate_per_s or 0)
        for place, shape in zip(group, rising, strict=True):
            order[place] = shape
    return order


def saturation(
    sent_s: Sequence[float], answered_s: Sequence[float], *, now_s: float, fastest_s: float | None, most: int
) -> str | None:
    """Return why the load exceeds a server's capacity; None while that is not certain.

    A queue is stable if its length divided by time goes to zero: departures keep up with arrivals over any period much
    longer than a request (rate stability; El-Taha and Stidham, "Sample-Path Analysis of Queueing Systems", 1999). This
    function looks at the later half of the time so far. The queue grows if fewer requests were answered than arrived,
    by more than 4 standard deviations of the number of arrivals, which is its square root for Poisson arrivals. A
    server that is still filling up looks the same, so the half must last 8 times as long as the fastest request.

    In simulated trials of 400 requests (1, 8 and 64 servers, two batching ones; 20 to 80 trials each) no load up to
    95 % was reported as too high, and every load of 400 % was. At 200 %, this function or `fell_behind` reported all
    trials with 1 and 8 servers, half with 64, and 10 % and 80 % with batching: a short trial ends before a large server
    is full.

    Args:
        sent_s: when requests were sent, seconds since the trial began, ascending.
        answered_s: when answers were complete, likewise.
        now_s: the current time, likewise.
        fastest_s: shortest time from sending a request to the end of its answer; None if no answer is complete.
        most: number of concurrent requests that is too high by itself.
    """
    in_flight = len(sent_s) - len(answered_s)
    if in_flight >= most:
        return f"{in_flight} requests were in flight at once, and the limit is {most}"
    if fastest_s is None or now_s / 2 < TIMES_OF_A_REQUEST * fastest_s:
        return None
    arrived = len(sent_s) - bisect_right(sent_s, now_s / 2)
    answered = len(answered_s) - bisect_right(answered_s, now_s / 2)
    if arrived < FEWEST_ARRIVALS or arrived - answered <= STANDARD_DEVIATIONS * arrived**0.5:
        return None
    return f"the queue grew: in the last {now_s / 2:.1f} s {arrived} requests arrived and {answered} were answered"


def fell_behind(sent_s: Sequence[float], answered_s: Sequence[float], *, fastest_s: float) -> str | None:
    """Return why the load exceeded a server's capacity, once the last answer is complete; None if it kept up.

    After the last request, a server that keeps up needs about the time of one more request. It fell behind if it needed
    8 times that of the fastest request plus, for randomness in the arrivals, 4 standard deviations of their time.

    Args:
        sent_s: when requests were sent, seconds since the trial began, ascending.
        answered_s: when answers were complete, likewise; as many.
        fastest_s: shortest time from sending a request to the end of its answer.
    """
    span_s, after_s = sent_s[-1] - sent_s[0], answered_s[-1] - sent_s[-1]
    if after_s <= TIMES_OF_A_REQUEST * fastest_s + STANDARD_DEVIATIONS * span_s / len(sent_s) ** 0.5:
        return None
    return f"requests that arrived within {span_s:.1f} s were all answered only {after_s:.1f} s later"
