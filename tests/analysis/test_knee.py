"""The knee of curves whose knee is known, and what must hold for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.knee import LoadPoint, best_goodput, knee, load_points, series_of
from bench.records.record import Objective
from bench.speed.figures import MeasuredCell
from testkit.records import cell


def points(*values: tuple[float, float, float | None]) -> list[LoadPoint]:
    """Return points of (load, throughput, latency)."""
    return [LoadPoint(load=a, throughput_tokens_per_s=b, latency_s=c) for a, b, c in values]


def test_the_knee_of_a_single_queue_is_at_half_its_capacity() -> None:
    # M/M/1: what comes goes out, and takes 1 / (capacity - load).
    curve = points(*((load, load, 1 / (10 - load)) for load in (0.5 * n for n in range(1, 20))))
    at_knee = knee(curve)
    assert at_knee is not None
    assert at_knee.point.load == 5
    assert at_knee.bracketed


def test_the_knee_of_a_batch_is_where_it_is_full() -> None:
    # Up to 8 at once nobody waits; beyond, throughput stays and everyone waits.
    curve = points(*((n, 100 * min(n, 8), max(1.0, n / 8)) for n in (1, 2, 4, 8, 16, 32)))
    at_knee = knee(curve)
    assert at_knee is not None
    assert at_knee.point.load == 8


def test_a_knee_at_an_end_may_lie_beyond() -> None:
    for curve in (points((1, 9, 1), (2, 10, 2), (4, 10, 4)), points((1, 1, 1), (2, 2, 1), (4, 4, 1))):
        at_knee = knee(curve)
        assert at_knee is not None
        assert not at_knee.bracketed
    full = knee(points((1, 1, 1), (2, 2, 1), (4, 3, None)))
    assert full is not None
    assert (full.point.load, full.bracketed) == (2, True)


def test_too_little_has_no_knee() -> None:
    assert knee(points((1, 1, 1), (2, 2, 1))) is None
    assert knee(points((1, 1, None), (2, 2, None), (3, 3, None))) is None
    assert best_goodput(points((1, 1, 1))) is None


positive = st.floats(0.01, 1000)
curves = st.lists(st.tuples(positive, positive, positive), min_size=3, max_size=12, unique_by=lambda one: one[0])


@given(curves, st.sampled_from([0.5, 2.0, 1024.0]), st.sampled_from([0.25, 4.0]), st.randoms())
def test_units_and_order_do_not_move_the_knee(
    values: list[tuple[float, float, float]], faster: float, longer: float, rng: st.DataObject
) -> None:
    at_knee = knee(points(*values))
    scaled = [(load, rate * faster, latency * longer) for load, rate, latency in values]
    rng.shuffle(scaled)  # type: ignore[attr-defined]
    moved = knee(points(*scaled))
    assert at_knee is not None
    assert moved is not None
    assert (at_knee.point.load, at_knee.bracketed) == (moved.point.load, moved.bracketed)


@given(curves)
def test_no_load_has_more_power_than_the_knee(values: list[tuple[float, float, float]]) -> None:
    curve = points(*values)
    at_knee = knee(curve)
    assert at_knee is not None
    assert at_knee.point in curve
    assert at_knee.point.power == max(point.power or 0 for point in curve)
    worst, best = min(load for load, *_ in values), max(load for load, *_ in values)
    assert at_knee.bracketed == (worst < at_knee.point.load < best)


@given(st.lists(st.tuples(positive, st.floats(0, 100)), min_size=1, max_size=9, unique_by=lambda one: one[0]))
def test_the_highest_goodput_is_found(values: list[tuple[float, float]]) -> None:
    curve = [
        LoadPoint(load=load, throughput_tokens_per_s=1, latency_s=1, goodput_requests_per_s=good)
        for load, good in values
    ]
    best, highest = best_goodput(curve), max(good for _, good in values)
    assert (best is None) == (highest == 0)
    if best:
        assert best.goodput_requests_per_s == highest


def test_points_come_from_cells() -> None:
    objective = Objective(ttft_s=5, tpot_s=5)
    cells = [cell("bf16", 256, concurrency=n).model_copy(update={"objective": objective}) for n in (4, 1, 2)]
    measured = [MeasuredCell(cell) for cell in cells]
    loads = load_points(measured)
    lightest = measured[1].summary.e2e_s
    assert [point.load for point in loads] == [1, 2, 4]
    assert loads[0].latency_s == pytest.approx(lightest.median if lightest else 0)
    assert all(point.goodput_requests_per_s for point in loads)
    assert len({series_of(each) for each in cells}) == 1
    rate = cells[0].model_copy(update={"request_rate_per_s": 3.0})
    assert series_of(rate) != series_of(cells[0])
    assert load_points([MeasuredCell(rate)])[0].load == 3
