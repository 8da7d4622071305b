"""Whole cells and sweeps over real HTTP, against a server with configurable faults."""

from itertools import pairwise

import pytest

from bench.records.record import ClientLoad, ServerFacts
from bench.speed.figures import MeasuredCell, recorded_cell
from bench.speed.metrics import busy_ns, overhead
from bench.speed.monitor import Monitor
from bench.speed.shapes import Shape, closed_loop, shape_of
from bench.speed.sweep import not_supported
from bench.speed.validity import EMULATED
from testkit.streamer import Pace, Running, Script, running
from tests.support.lanes import SHAPE, VOCABULARY, Seen, good, measure, measure_all, opened, sweep_all

pytestmark = pytest.mark.alone

SHAPES = [closed_loop(n, 3, c) for n in (1, 5, 9) for c in (1, 2)]
FACTS = ServerFacts(
    version=None,
    kv_capacity_tokens=100,
    max_context_tokens=60,
    weights_bytes=None,
    kv_cache_dtype="auto",
    devices=1,
)


# One cell


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_good_server_makes_a_good_cell(server: Running, concurrency: int) -> None:
    lines: list[str] = []
    shape = closed_loop(6, 4, concurrency)
    cell = measure(server, shape=shape, on_progress=lines.append)
    assert (cell.status, cell.reasons) == ("ok", ())
    assert [len(trial.requests) for trial in cell.trials] == [concurrency] * 3
    assert (cell.input_len, cell.output_len, cell.concurrency, cell.seed) == (6, 4, concurrency, 5)
    assert recorded_cell(cell) is not None
    assert server.seen()["flushes"] == 4
    assert lines[0].endswith("warm-up")
    assert lines[1:] == [f"6 in, 4 out, {concurrency} at once: trial {n} of 3" for n in (1, 2, 3)]


def test_every_request_has_a_prompt_of_its_own(server: Running) -> None:
    measure(server, shape=closed_loop(6, 2, 8))
    prompts = [tuple(truth.prompt) for truth in server.truth()]
    assert len(prompts) == len(set(prompts)) == 4 * 8
    assert {len(prompt) for prompt in prompts} == {6}
    assert {token for prompt in prompts for token in prompt} <= set(VOCABULARY)


def test_an_emulating_engine_makes_an_emulated_cell(server: Running) -> None:
    cell = measure(server, emulated=True)
    assert (cell.status, cell.reasons) == ("emulated", (EMULATED,))


def test_the_warm_up_does_not_count(server: Running) -> None:
    slow = Script([(0.4, 1), (0.001, 3)], cached_tokens=3)
    cell = measure(server, slow)
    assert cell.status == "ok"
    assert all(trial.requests[0].end_ns < 300e6 for trial in cell.trials)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (good(3), "the server counted 3 generated tokens where 4 were asked for"),
        (Script([(0.001, 1)] * 4, prompt_tokens=7), "the server counted 7 prompt tokens where 6 were sent"),
        (Script([(0.001, 1)] * 4, cached_tokens=2), "the server took 2 of 6 prompt tokens from its cache"),
        (Script([(0.001, 1)] * 4, cached_tokens=None), "the server gave no count of cached tokens"),
        (Script([(0.001, 1)] * 4, counts=False), "the server gave no count of generated tokens"),
        (Script([(0.001, 1)] * 4, finish="stop"), "the answer ended with finish reason stop where length was expected"),
    ],
)
def test_a_wrong_answer_makes_an_invalid_cell(server: Running, fault: Script, reason: str) -> None:
    cell = measure(server, good(), good(), fault)
    assert cell.status == "invalid"
    assert f"{reason} (1 of 3 requests)" in cell.reasons
    assert len(cell.trials) == 3
    assert recorded_cell(cell) is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Script([(0.001, 1)] * 2, ending="error"), "an error after 2 tokens"),
        (Script([(0.001, 1)] * 2, ending="cut"), "the connection failed"),
        (Script([(0.001, 1)] * 2, ending="stall"), "silent for 0.5 s"),
        (Script([(0.001, 1)] * 4, ending="silent"), "without [DONE]"),
        (Script([(0.001, 1)] * 4, ending="unfinished"), "without a finish reason"),
        (Script([], status=429), "HTTP 429"),
        (Script([], status=500), "HTTP 500"),
    ],
)
def test_a_broken_answer_makes_a_failed_cell_that_keeps_what_was_seen(
    server: Running, fault: Script, reason: str
) -> None:
    cell = measure(server, good(), good(), fault)
    assert cell.status == "failed"
    assert reason in cell.reasons[0]
    assert [trial.requests[0].error is None for trial in cell.trials] == [True, False]
    assert len(server.truth()) == 3


def test_a_broken_warm_up_is_the_evidence(server: Running) -> None:
    cell = measure(server, Script([(0.001, 1)], ending="error"))
    assert (cell.status, len(cell.trials), len(server.truth())) == ("failed", 1, 1)


def test_observations_of_the_monitor_are_in_the_trial(server: Running) -> None:
    cell = measure(server, monitor=Seen(peak_memory_bytes=9))
    assert [trial.peak_memory_bytes for trial in cell.trials] == [9, 9, 9]
    watched = measure(server, Script([(0.3, 4)]), Script([(0.3, 4)]), trials=1, monitor=Monitor(lambda: 7))
    assert watched.trials[0].peak_memory_bytes == 7
    assert watched.trials[0].client is not None


def test_a_busy_client_marks_a_cell(server: Running) -> None:
    load = ClientLoad(lag_p99_ns=60_000_000, lag_max_ns=70_000_000, cpu_share=0.2)
    cell = measure(server, monitor=Seen(client=load))
    assert cell.status == "ok"
    assert cell.warnings[0].startswith("client_bound: ")
    starved = measure(server, monitor=Seen(client=load.model_copy(update={"cpu_share": 0.97})))
    assert starved.status == "invalid"
    assert starved.reasons[0].startswith("client_bound: it used 97 % of a core")


def test_a_cell_faster_than_the_device_can_be_is_invalid(server: Running) -> None:
    cell = measure(server, exceeds=lambda cell: f"{len(cell.cell.trials)} trials above 100 %")
    assert (cell.status, cell.reasons) == ("invalid", ("3 trials above 100 %",))


def test_unproven_values_are_reported_without_a_failure(server: Running) -> None:
    blind = Script([(0.001, 1)] * 4, cached_tokens=None)
    cell = measure(server, *[blind] * 4, proves_cache=False)
    assert cell.status == "ok"
    assert any("cache" in text for text in cell.unproven)
    spoken = measure(server, protocol="openai", proves_cache=False)
    assert spoken.status == "ok"


def test_little_time_is_spent_outside_requests(server: Running) -> None:
    def share() -> float:
        server.load(pace=Pace(first_s=(0.1, 0.1), gap_s=(0.01, 0.01)))
        cells = measure_all(server, [closed_loop(2000, 100, 4)])
        assert cells[0].status == "ok"
        shares = overhead(cells)
        assert shares is not None
        return shares

    assert share() < 0.03 or share() < 0.03 or share() < 0.03


def test_the_time_of_a_cell_holds_that_of_its_requests(server: Running) -> None:
    cell = measure(server, *[Script([(0.05, 4)])] * 4)
    assert cell.warmup_ns > 50e6
    assert 200e6 < busy_ns(cell) < cell.wall_ns


# Loads


def test_a_saturated_rate_is_stopped_and_higher_rates_are_skipped(server: Running) -> None:
    stuck = Script([(0.05, 1), (3.0, 3)])
    shapes = [opened(400, 60, most=20), opened(200, 60, most=20), opened(800, 60, most=20)]
    # The warm-up is of 8 requests, then the first trial of the slowest rate begins.
    server.load(*[good()] * 8, *[stuck] * 60)
    slow, *faster = measure_all(server, shapes, trials=1, stall_s=5)
    assert (slow.status, slow.request_rate_per_s) == ("ok", 200)
    assert "20 requests were in flight at once" in (slow.trials[0].saturated or "")
    assert any("the load was more than the server can take" in text for text in slow.warnings)
    assert len(server.truth()) <= 8 + 20
    assert len(slow.trials[0].requests) == 20
    summary = MeasuredCell(slow).summary
    assert (summary.ttft_s, summary.tpot_s, summary.e2e_s) == (None, None, None)
    assert summary.output_tokens_per_s is not None
    reason = "not tried: 200 requests/s was already more than the server can take"
    assert [(cell.status, cell.reasons) for cell in faster] == [("not_supported", (reason,))] * 2


# Two lanes


def test_trials_of_two_lanes_alternate(server: Running, other: Running) -> None:
    server.load()
    other.load()
    lines: list[str] = []
    urls = [server.base_url, other.base_url]
    [cells] = sweep_all(urls, [SHAPE], on_progress=lines.append)
    assert [cell.variant.quant for cell in cells] == ["a", "b"]
    assert [(cell.status, cell.interleaved, len(cell.trials)) for cell in cells] == [("ok", True, 3)] * 2
    assert "".join(text[0] for text in lines) == "ab" + "abbaab"
    first, second = ([truth.prompt for truth in lane.truth()] for lane in (server, other))
    assert first == second


def test_a_lane_that_breaks_does_not_harm_the_other(server: Running, other: Running) -> None:
    server.load(good(), Script([], status=500))
    other.load()
    [(broken, sound)] = sweep_all([server.base_url, other.base_url], [SHAPE])
    assert (broken.status, len(broken.trials)) == ("failed", 1)
    assert (sound.status, len(sound.trials), sound.interleaved) == ("ok", 3, False)


def test_a_server_that_dies_leaves_the_other_alone_for_the_shapes_left(server: Running) -> None:
    server.load()
    with running() as dying:
        dying.load(Script([(0.001, 1)], ending="die"))
        cells = sweep_all([dying.base_url, server.base_url], SHAPES[:3], trials=1)
    assert [cell.status for cell, _ in cells] == ["failed"] * 3
    assert [cell.status for _, cell in cells] == ["ok"] * 3
    assert all("had stopped answering" in cell.reasons[0] for cell, _ in cells[1:])


# Shapes


def test_a_shape_longer_than_the_context_is_not_supported() -> None:
    shape = closed_loop(8000, 200, 1)
    assert not_supported(shape, 8200) is None
    assert not_supported(shape, 8192) == "8000 + 200 tokens are more than the context of 8192"
    assert (
        not_supported(closed_loop(60, 1, 1), 8192, FACTS) == "60 + 1 tokens are more than the 60 that the server takes"
    )


def test_a_wave_that_the_cache_cannot_hold_at_once_is_not_supported(server: Running) -> None:
    assert not_supported(closed_loop(20, 5, 4, per_slot=9), None, FACTS) is None
    reason = "5 x (20 + 5 tokens) are 125 at once, more than the 100 that fit into the server's KV cache"
    assert not_supported(closed_loop(20, 5, 5), None, FACTS) == reason
    open_loop = Shape(input_len=20, output_len=5, concurrency=200, request_rate_per_s=3, n_requests=9)
    assert not_supported(open_loop, None, FACTS) is None
    cell = measure(server, shape=closed_loop(20, 5, 5), facts=FACTS)
    assert (cell.status, cell.reasons, cell.trials) == ("not_supported", (reason,), ())


# Sweeps


def test_a_sweep_is_complete_and_its_order_comes_from_the_seed(server: Running) -> None:
    server.load()
    orders = []
    for seed in (1, 1, 2):
        cells = measure_all(server, SHAPES, seed=seed, trials=1)
        assert {cell.status for cell in cells} == {"ok"}
        assert sorted(map(shape_of, cells), key=str) == sorted(SHAPES, key=str)
        orders.append([shape_of(cell) for cell in cells])
    assert orders[0] == orders[1] != orders[2]


def test_a_cell_is_handed_over_before_the_next_begins(server: Running) -> None:
    server.load()
    waves: list[int] = []
    measure_all(server, SHAPES, trials=1, on_cells=lambda cells: waves.append(server.seen()["flushes"]))
    assert waves == [2, 4, 6, 8, 10, 12]


def test_a_broken_cell_does_not_end_a_sweep(server: Running) -> None:
    server.load(Script([], status=500))
    cells = measure_all(server, SHAPES, trials=1)
    assert [cell.status for cell in cells] == ["failed", *["ok"] * 5]


def test_a_server_that_dies_loses_no_earlier_cell() -> None:
    shapes = [closed_loop(n, 4, 1) for n in (1, 2, 3, 4)]
    with running() as server:
        # Two waves a cell: the fourth is the second cell's trial.
        server.load(good(), good(), good(), Script([(0.001, 1)], ending="die"))
        cells = measure_all(server, shapes, trials=1)
    assert [cell.status for cell in cells] == ["ok", "failed", "failed", "failed"]
    assert "the connection failed" in cells[1].reasons[0]
    assert cells[1].trials[0].requests[0].event_tokens == (1,)
    assert all("had stopped answering" in cell.reasons[0] and not cell.trials for cell in cells[2:])
    assert len({shape_of(cell) for cell in cells}) == 4
    assert all(a != b for a, b in pairwise(cells))
