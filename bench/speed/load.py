"""Schedule requests: arrival times, the order of shapes, and when an open loop saturates the server.

Pure functions. An open loop sends each request at its due time, however late earlier answers are, and latencies count
from the due time; a client that waits for answers before it sends leaves out the very requests that a slow server
would have delayed most (coordinated omission; G. Tene, "How NOT to measure latency", 2013).
"""

import hashlib
import random
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from bench.speed.shapes import Shape

NS_PER_S = 1e9
FEWEST_ARRIVALS = 30
"""Arrivals in the later half of the time below which no queue is called growing. Chosen: four standard deviations of
fewer would be most of them."""
TIMES_OF_A_REQUEST = 8
"""A full server may take this many times as long for a request as an empty one; until then it may just be filling
(simulated, see :func:`saturation`)."""
STANDARD_DEVIATIONS = 4
"""Shortfall of completions that chance does not make: one in 30,000 for a normal distribution."""
WARM_UP_SHARE = 0.1
WARM_UP_FEWEST = 8
"""Part of an open loop's requests that warms up, and the fewest. Chosen: every batch size of a light load comes up."""


def generator(seed: int, shape: Shape, wave: int, what: str) -> np.random.Generator:
    """Return the source of chance for one wave; it follows from the arguments alone.

    Args:
        seed: of the sweep.
        shape: another shape draws other numbers.
        wave: 0 is the warm-up.
        what: tells the uses of one wave apart.
    """
    text = f"{seed}/{shape.input_len}/{shape.output_len}/{shape.load}/{shape.n_requests}/{wave}/{what}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def arrivals_ns(shape: Shape, *, seed: int, wave: int, n: int) -> tuple[int, ...]:
    """Return when each of ``n`` requests of an open loop is due, nanoseconds since the wave began.

    Gaps are exponential with mean 1 / rate: a Poisson process, which is what many independent users make.
    """
    assert shape.request_rate_per_s is not None
    gaps_s = generator(seed, shape, wave, "arrivals").exponential(1 / shape.request_rate_per_s, n)
    return tuple((np.cumsum(gaps_s) * NS_PER_S).astype(np.int64).tolist())


def warm_up_requests(shape: Shape) -> int:
    """Return how many requests warm a server up for a shape.

    One for each slot of a closed loop, all at once, which brings every batch size of the shape; the first tenth of an
    open loop, at its rate.
    """
    if shape.request_rate_per_s is None:
        return shape.concurrency
    return min(shape.n_requests, max(WARM_UP_FEWEST, round(WARM_UP_SHARE * shape.n_requests)))


def in_order(shapes: Sequence[Shape], seed: int) -> list[Shape]:
    """Return the shapes in an order drawn from ``seed``, but of open loops of the same lengths the slower first."""
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
    came_s: Sequence[float], went_s: Sequence[float], *, now_s: float, fastest_s: float | None, most: int
) -> str | None:
    """Return why a server is given more than it can take; None while that is not clear.

    A queue is stable if what is in it, over the time, goes to zero: departures keep up with arrivals over any period
    much longer than a request (rate stability; El-Taha and Stidham, "Sample-Path Analysis of Queueing Systems", 1999).
    So the later half of the time so far is looked at. The queue grows if fewer requests went than came, by more than
    4 standard deviations of the number that came, which is its own square root for Poisson arrivals. A server that is
    just being filled looks the same, so the half must last 8 times as long as the fastest request took.

    In simulated trials of 400 requests (1, 8 and 64 servers, two batching ones; 20 to 80 trials each) no load up to
    95 % was called too much, and every one of 400 % was. Of 200 %, this or `fell_behind` saw all with 1 and 8 servers,
    half with 64, and 10 % and 80 % with batching: a short trial ends before a large server is full.

    Args:
        came_s: when requests were sent, seconds since the trial began, rising.
        went_s: when answers were complete, likewise.
        now_s: the time.
        fastest_s: shortest time that an answer took from sending to its end; None if none is complete.
        most: requests under way at once that are too many by themselves.
    """
    under_way = len(came_s) - len(went_s)
    if under_way >= most:
        return f"{under_way} requests were under way at once, and {most} are the most that may be"
    if fastest_s is None or now_s / 2 < TIMES_OF_A_REQUEST * fastest_s:
        return None
    came = len(came_s) - bisect_right(came_s, now_s / 2)
    went = len(went_s) - bisect_right(went_s, now_s / 2)
    if came < FEWEST_ARRIVALS or came - went <= STANDARD_DEVIATIONS * came**0.5:
        return None
    return f"the queue grew: in the last {now_s / 2:.1f} s {came} requests came and {went} were answered"


def fell_behind(came_s: Sequence[float], went_s: Sequence[float], *, fastest_s: float) -> str | None:
    """Return why a server was given more than it can take, once the last answer is complete; None if it kept up.

    After the last request came, a server that keeps up needs about the time of one more. It fell behind if it needed
    8 times that of the fastest request and, for the chance in the arrivals, 4 standard deviations of their time.

    Args:
        came_s: when requests were sent, seconds since the trial began, rising.
        went_s: when answers were complete, likewise; as many.
        fastest_s: shortest time that an answer took.
    """
    span_s, after_s = came_s[-1] - came_s[0], went_s[-1] - came_s[-1]
    if after_s <= TIMES_OF_A_REQUEST * fastest_s + STANDARD_DEVIATIONS * span_s / len(came_s) ** 0.5:
        return None
    return f"requests that came within {span_s:.1f} s were all answered only {after_s:.1f} s later"
