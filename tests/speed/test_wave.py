"""Waves over real HTTP: all at once, as a closed loop, as an open loop."""

import pytest

from bench.speed.shapes import closed_loop
from testkit.streamer import Pace, Running, Script
from tests.support.lanes import good, measure, measure_all, opened

pytestmark = pytest.mark.alone


def test_requests_of_a_wave_are_sent_together(server: Running) -> None:
    slow = Script([(0.3, 1), (0.01, 3)])
    cell = measure(server, *[slow] * 8, shape=closed_loop(6, 4, 4), trials=1)
    starts = [trace.start_ns for trace in cell.trials[0].requests]
    assert max(starts) - min(starts) < 100e6
    assert all(trace.event_ns[0] > 290e6 for trace in cell.trials[0].requests)


def test_a_server_that_hangs_ends_the_wave_with_its_reason(server: Running) -> None:
    hanging = Script([(0.001, 1), (8.0, 3)])
    cell = measure(server, good(), hanging, alive=lambda: "the server hangs", stall_s=8)
    assert (cell.status, cell.reasons) == ("failed", ("the server hangs",))
    assert cell.trials[0].requests[0].event_tokens == (1,)


def test_a_closed_loop_keeps_its_slots_full(server: Running) -> None:
    shape = closed_loop(6, 4, 2, per_slot=5)
    server.load(pace=Pace(first_s=(0.03, 0.05), gap_s=(0.001, 0.01)))
    [cell] = measure_all(server, [shape], trials=1)
    assert (cell.status, len(cell.trials[0].requests), cell.n_requests) == ("ok", 10, 10)
    assert len(server.truth()) == 2 + 10
    spans = [(trace.start_ns, trace.start_ns + trace.end_ns) for trace in cell.trials[0].requests]
    for begin, _ in spans:
        assert sum(a <= begin < b for a, b in spans) <= 2
    # A request starts at the end of the previous one, not at the end of the slower of a pair.
    starts = [begin for begin, _ in spans]
    assert len({round(start / 1e6) for start in starts}) > 5


def test_a_slot_sends_nothing_after_a_broken_answer(server: Running) -> None:
    cell = measure(server, good(), good(), Script([], status=500), shape=closed_loop(6, 4, 1, per_slot=50), trials=1)
    assert (cell.status, len(cell.trials[0].requests)) == ("failed", 2)


def test_an_open_loop_sends_on_time_however_late_the_answers_are(server: Running) -> None:
    slow = Script([(0.6, 1), (0.001, 3)])
    cell = measure(server, *[good()] * 8, *[slow] * 40, shape=opened(100, 40), trials=1, stall_s=5)
    assert cell.status == "ok"
    requests = cell.trials[0].requests
    assert len(requests) == 40
    late = [trace.start_ns - trace.scheduled_ns for trace in requests if trace.scheduled_ns is not None]
    assert len(late) == 40
    assert min(late) >= 0
    assert sorted(late)[20] < 20e6
    assert max(trace.start_ns for trace in requests) < min(trace.start_ns + trace.end_ns for trace in requests) + 2e9
    again = measure(server, shape=opened(100, 40), trials=1).trials[0].requests
    assert [trace.scheduled_ns for trace in again] == [trace.scheduled_ns for trace in requests]


def test_a_broken_open_loop_is_stopped_and_failed(server: Running) -> None:
    cell = measure(server, *[good()] * 10, Script([], status=429), shape=opened(50, 60), trials=1)
    assert cell.status == "failed"
    assert "HTTP 429" in cell.reasons[0]
    assert len(cell.trials[0].requests) < 60
