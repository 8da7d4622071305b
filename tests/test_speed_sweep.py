"""Whole cells and sweeps over real HTTP, against a server that can be told to misbehave."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.errors import SourceError
from bench.record import SpeedCell, Variant
from bench.speed.client import Client
from bench.speed.metrics import summarize
from bench.speed.shapes import Shape, closed_loop, shape_of
from bench.speed.sweep import (
    measure_cell,
    not_supported,
    ordinary_vocabulary,
    random_prompt,
    sweep,
    wave_prompts,
)
from bench.speed.validity import EMULATED
from tests.fake_server import Running, Script, running

VOCABULARY = tuple(range(100, 5000))
SHAPE = closed_loop(6, 4, 1)
OPTIONS: dict[str, Any] = {
    "variant": Variant(model="m", quant="q"),
    "engine": "fake",
    "vocabulary": VOCABULARY,
    "trials": 3,
    "seed": 5,
    "emulated": False,
    "memory": lambda: 1000,
    "on_progress": lambda text: None,
}
SHAPES = [closed_loop(n, 3, c) for n in (1, 5, 9) for c in (1, 2)]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as server:
        yield server


def good(n: int = 4) -> Script:
    return Script([(0.001, 1)] * n)


def measure(server: Running, *scripts: Script, shape: Shape = SHAPE, **changes: Any) -> SpeedCell:
    async def run() -> SpeedCell:
        async with Client(server.base_url, total_timeout_s=5, stall_timeout_s=0.5) as client:
            return await measure_cell(client, shape, **(OPTIONS | changes))

    server.load(*scripts)
    return asyncio.run(run())


def measure_all(
    server: Running, shapes: Sequence[Shape], on_cell: Callable[[SpeedCell], None] = lambda cell: None, **changes: Any
) -> list[SpeedCell]:
    async def run() -> list[SpeedCell]:
        found = []
        async with (
            Client(server.base_url, total_timeout_s=5, stall_timeout_s=0.5) as client,
            aclosing(sweep(client, shapes, **(OPTIONS | changes))) as cells,
        ):
            async for cell in cells:
                found.append(cell)
                on_cell(cell)
        return found

    return asyncio.run(run())


# One cell


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_good_server_makes_a_good_cell(server: Running, concurrency: int) -> None:
    said: list[str] = []
    shape = closed_loop(6, 4, concurrency)
    cell = measure(server, shape=shape, on_progress=said.append)
    assert (cell.status, cell.reasons) == ("ok", ())
    assert [len(trial.requests) for trial in cell.trials] == [concurrency] * 3
    assert (cell.input_len, cell.output_len, cell.concurrency, cell.seed) == (6, 4, concurrency, 5)
    assert summarize(cell) is not None
    assert server.seen()["flushes"] == 4
    assert said[0].endswith("warm-up")
    assert said[1:] == [f"6 in, 4 out, {concurrency} at once: trial {n} of 3" for n in (1, 2, 3)]


def test_every_request_has_a_prompt_of_its_own(server: Running) -> None:
    measure(server, shape=closed_loop(6, 2, 8))
    prompts = [tuple(truth.prompt) for truth in server.truth()]
    assert len(prompts) == len(set(prompts)) == 4 * 8
    assert {len(prompt) for prompt in prompts} == {6}
    assert {token for prompt in prompts for token in prompt} <= set(VOCABULARY)


def test_requests_of_a_wave_are_sent_together(server: Running) -> None:
    slow = Script([(0.3, 1), (0.01, 3)])
    cell = measure(server, *[slow] * 8, shape=closed_loop(6, 4, 4), trials=1)
    starts = [trace.start_ns for trace in cell.trials[0].requests]
    assert max(starts) - min(starts) < 100e6
    assert all(trace.event_ns[0] > 290e6 for trace in cell.trials[0].requests)


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
    assert summarize(cell) is None


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


def test_peak_memory_is_sampled_beside_the_event_loop(server: Running) -> None:
    seen = iter((5, 9, None, 7))
    slow = Script([(0.5, 4)])
    cell = measure(server, good(), slow, trials=1, memory=lambda: next(seen, 7))
    # The warm-up took the first sample.
    assert cell.trials[0].peak_memory_bytes == 9
    assert measure(server, trials=1, memory=lambda: None).trials[0].peak_memory_bytes is None


def test_little_time_is_spent_outside_requests(server: Running) -> None:
    def share() -> float:
        begin = time.monotonic()
        cell = measure(server, *[Script([(0.01, 1)] * 100)] * 4, shape=closed_loop(2000, 100, 1))
        whole = time.monotonic() - begin
        inside = sum(trial.requests[0].end_ns for trial in cell.trials) / 1e9 * 4 / 3
        assert cell.status == "ok"
        return 1 - inside / whole

    assert share() < 0.03 or share() < 0.03


# Prompts and shapes


def test_prompts_follow_from_seed_shape_and_wave_alone() -> None:
    def prompts(shape: Shape = SHAPE, seed: int = 1, wave: int = 1) -> list[list[int]]:
        return wave_prompts(VOCABULARY, shape, seed=seed, wave=wave)

    assert prompts() == prompts()
    longer = closed_loop(6, 5, 1)
    different = [prompts(), prompts(seed=2), prompts(wave=2), prompts(wave=0), prompts(shape=longer)]
    assert len({str(one) for one in different}) == len(different)


def test_no_two_prompts_of_a_wave_begin_alike() -> None:
    shape = closed_loop(1, 1, 64)
    for wave in range(50):
        assert len({prompt[0] for prompt in wave_prompts(range(100), shape, seed=0, wave=wave)}) == 64


def test_random_prompts_use_the_whole_vocabulary() -> None:
    assert set(random_prompt(range(10, 20), 500, random.Random(0))) == set(range(10, 20))


def test_a_shape_longer_than_the_context_is_not_supported() -> None:
    shape = closed_loop(8000, 200, 1)
    assert not_supported(shape, 8200) is None
    assert not_supported(shape, 8192) == "8000 + 200 tokens are more than the context of 8192"


def test_added_tokens_are_not_ordinary(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    added = [{"id": 0, "content": "<|end|>", "special": True}, {"id": 9, "content": "<think>", "special": False}]
    for vocabulary in ({"b": 2, "a": 1, "<|end|>": 0, "c": 4}, [["<|end|>", 0], ["a", -1.5], ["b", -2]]):
        file.write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocabulary}}))
        assert ordinary_vocabulary(file) == ((1, 2, 4) if isinstance(vocabulary, dict) else (1, 2))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model": {}}', '{"model": {"vocab": {}}}'])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SourceError, match=r"tokenizer\.json"):
        ordinary_vocabulary(file)


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
    measure_all(server, SHAPES, trials=1, on_cell=lambda cell: waves.append(server.seen()["flushes"]))
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
