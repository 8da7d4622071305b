"""Measure shapes on running servers: warm up, flush, send and check, one shape after the other.

A server under measurement is a `Lane`. With two lanes, each shape is measured on both with interleaved trials
(A B, B A, …), so that any drift, such as of the temperature, affects both equally.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import EngineError
from bench.records.record import ServerFacts, SpeedCell, Status, Trial, Variant
from bench.speed.client import Client, now_ns
from bench.speed.figures import MeasuredCell, measured_cell
from bench.speed.load import arrivals_ns, in_order, warm_up_requests
from bench.speed.metrics import is_saturated, wave_ns
from bench.speed.prompts import wave_prompts
from bench.speed.shapes import Shape
from bench.speed.validity import Validity, broke, judge
from bench.speed.wave import Observer, send_wave

DRAIN_ATTEMPTS = 12
"""Flush attempts of about 5 s each: a server that ignores cancelled requests completes them first."""


@dataclass(frozen=True)
class Lane:
    """One server under measurement."""

    client: Client
    variant: Variant
    engine: str
    emulated: bool
    """Whether it does not compute on quantized kernels."""
    facts: ServerFacts | None
    monitor: Observer
    alive: Callable[[], str | None]
    """Returns why the server is gone or hangs; None while it works."""
    exceeds: Callable[[MeasuredCell], str | None]
    """Returns why a cell that passed every check is faster than the device allows; None if it is not."""
    vocabulary: Sequence[int]
    """Token ids to sample prompts from; at least as many as requests of a trial."""
    nonce: str = ""
    """Part of the seed of the prompts, different in each sweep of a server whose cache cannot be emptied."""
    proves_cache: bool = True
    """Whether the server reports how many prompt tokens came from its cache."""
    unproven: tuple[str, ...] = ()
    """What else cannot be verified on this server, one sentence each."""


def not_supported(shape: Shape, context_length: int | None, facts: ServerFacts | None = None) -> str | None:
    """Return why a shape cannot run; None if it can.

    All requests of a closed loop must fit in the KV cache at once: otherwise some would wait for others, and the
    concurrency would be lower than the one that is reported.

    Args:
        shape: the shape to measure.
        context_length: longest prompt plus answer of the model in tokens; None if it is unknown.
        facts: what the running server reported; None before it runs.
    """
    tokens = shape.input_len + shape.output_len
    words = f"{shape.input_len} + {shape.output_len} tokens"
    if context_length is not None and tokens > context_length:
        return f"{words} are more than the context of {context_length}"
    if facts is None:
        return None
    if facts.max_context_tokens is not None and tokens > facts.max_context_tokens:
        return f"{words} are more than the {facts.max_context_tokens} that the server takes"
    at_once = shape.concurrency if shape.request_rate_per_s is None else 1
    if facts.kv_capacity_tokens is not None and at_once * tokens > facts.kv_capacity_tokens:
        return (
            f"{at_once} x ({words}) are {at_once * tokens} at once, more than the {facts.kv_capacity_tokens} that fit "
            "into the server's KV cache"
        )
    return None


class _Measuring:
    """One lane's cell while it is being measured."""

    def __init__(self, track: "_Track", shape: Shape, seed: int) -> None:
        self.lane = track.lane
        self._track = track
        self.over = False
        """Whether a request failed or the server does not answer, so that no wave follows."""
        self._shape = shape
        self._vocabulary = track.vocabulary
        self._seed = seed
        self._kept: list[Trial] = []
        self._warmup_ns = 0
        self._wall_ns = 0
        """Time of this lane's own waves."""
        self._error: str | None = None

    async def run_wave(self, wave: int) -> None:
        """Flush, send one wave of fresh prompts, and keep it.

        Wave 0 warms the server up with this shape and is discarded, unless it failed: then it is kept as evidence.
        """
        begin_ns = now_ns()
        try:
            trial = await self._send(wave)
        except EngineError as error:
            self._error, self.over = str(error), True
        else:
            self.over = broke(trial)
            self._track.is_saturated = trial.saturated is not None
            if wave or self.over:
                self._kept.append(trial)
            else:
                self._warmup_ns = wave_ns(trial)
        self._wall_ns += now_ns() - begin_ns

    async def _send(self, wave: int) -> Trial:
        shape, lane = self._shape, self.lane
        n = shape.n_requests if wave else warm_up_requests(shape)
        prompts = wave_prompts(self._vocabulary, shape, seed=self._seed, wave=wave, n=n, nonce=lane.nonce)
        due_ns = None if shape.request_rate_per_s is None else arrivals_ns(shape, seed=self._seed, wave=wave, n=n)
        await self._flush()
        return await send_wave(
            lane.client,
            lane.monitor,
            prompts,
            output_len=shape.output_len,
            concurrency=shape.concurrency,
            due_ns=due_ns,
            alive=lane.alive,
        )

    async def _flush(self) -> None:
        """Empty the cache, waiting longer for a server that was saturated."""
        attempts = DRAIN_ATTEMPTS if self._track.is_saturated else 1
        for attempt in range(1, attempts + 1):
            try:
                return await self.lane.client.flush_cache()
            except EngineError:
                if attempt == attempts:
                    raise
        return None

    def _verdict(self) -> Validity:
        if self._error is not None:
            return Validity("failed", (self._error,), ())
        return judge(
            self._kept,
            input_len=self._shape.input_len,
            output_len=self._shape.output_len,
            emulated=self.lane.emulated,
            proves_cache=self.lane.proves_cache,
        )

    def cell(self, *, interleaved: bool) -> SpeedCell:
        """Return the cell, judged."""
        begin_ns = now_ns()
        lane, shape = self.lane, self._shape
        verdict = self._verdict()
        reasons = verdict.reasons
        death = lane.alive() if verdict.status == "failed" else None
        if death is not None:
            reasons = tuple(dict.fromkeys((death, *reasons)))
        cell = _cell(lane, shape, self._seed, verdict.status, reasons).model_copy(
            update={
                "unproven": tuple(dict.fromkeys((*lane.unproven, *lane.client.unproven))),
                "warnings": verdict.warnings,
                "warmup_ns": self._warmup_ns,
                "wall_ns": self._wall_ns + now_ns() - begin_ns,
                "interleaved": interleaved,
                "trials": tuple(self._kept),
            }
        )
        passed = measured_cell(cell)
        impossible = lane.exceeds(passed) if passed else None
        if impossible is None:
            return cell
        return cell.model_copy(update={"status": "invalid", "reasons": (impossible,), "warnings": ()})


def _cell(lane: Lane, shape: Shape, seed: int, status: Status, reasons: tuple[str, ...]) -> SpeedCell:
    """Return a cell without trials."""
    return SpeedCell(
        variant=lane.variant,
        engine=lane.engine,
        **shape.model_dump(),
        seed=seed,
        prompts=lane.nonce,
        status=status,
        reasons=reasons,
        trials=(),
    )


class _Track:
    """A lane and its state during the sweep."""

    def __init__(self, lane: Lane, seed: int) -> None:
        self.lane = lane
        self.vocabulary = np.asarray(lane.vocabulary, dtype=np.int64)
        self.is_saturated = False
        """Whether its last wave exceeded the server's capacity, so that the server may still be working on it."""
        self._seed = seed
        self._gone: str | None = None
        self._saturating_rates: dict[tuple[int, int], float] = {}
        """Request rates that exceeded the server's capacity, by input and output length."""

    def without_a_trial(self, shape: Shape) -> SpeedCell | None:
        """Return the cell of a shape that need not be measured; None if it must be."""
        if self._gone is not None:
            reason = f"not measured, because the server had stopped answering: {self._gone}"
            return _cell(self.lane, shape, self._seed, "failed", (reason,))
        obstacle = not_supported(shape, None, self.lane.facts) or self._above_saturation(shape)
        return None if obstacle is None else _cell(self.lane, shape, self._seed, "not_supported", (obstacle,))

    def _above_saturation(self, shape: Shape) -> str | None:
        rate = self._saturating_rates.get((shape.input_len, shape.output_len))
        if rate is None or shape.request_rate_per_s is None or shape.request_rate_per_s <= rate:
            return None
        return f"not tried: {rate:g} requests/s was already more than the server can take"

    async def learn(self, cell: SpeedCell) -> None:
        """Update the lane's state from a cell. After a failed cell the server must show that it still generates."""
        if cell.request_rate_per_s is not None and is_saturated(cell):
            self._saturating_rates[cell.input_len, cell.output_len] = cell.request_rate_per_s
        if cell.status == "failed":
            self._gone = self.lane.alive() or await self._cannot_generate()

    async def _cannot_generate(self) -> str | None:
        try:
            await self.lane.client.health_generate()
        except EngineError as error:
            return str(error)
        return None


async def _measure(
    tracks: Sequence[_Track], shape: Shape, *, trials: int, seed: int, on_progress: Callable[[str], None]
) -> list[SpeedCell]:
    """Measure one shape on every lane; an error on a lane becomes part of its cell and affects no other lane."""
    cells = [track.without_a_trial(shape) for track in tracks]
    measuring = [_Measuring(track, shape, seed) for track, cell in zip(tracks, cells, strict=True) if cell is None]
    for wave in range(trials + 1):
        # A B to warm up, then A B, B A, …
        for attempt in measuring if wave % 2 or not wave else reversed(measuring):
            if not attempt.over:
                lane = f"{attempt.lane.variant.quant}: " if len(tracks) > 1 else ""
                step = f"trial {wave} of {trials}" if wave else "warm-up"
                on_progress(f"{lane}{shape.input_len} in, {shape.output_len} out, {shape.load}: {step}")
                await attempt.run_wave(wave)
    interleaved = len(measuring) > 1 and not any(attempt.over for attempt in measuring)
    measured = (attempt.cell(interleaved=interleaved) for attempt in measuring)
    return [cell if cell is not None else next(measured) for cell in cells]


async def sweep(
    lanes: Sequence[Lane], shapes: Sequence[Shape], *, trials: int, seed: int, on_progress: Callable[[str], None]
) -> AsyncIterator[tuple[SpeedCell, ...]]:
    """Yield the cells of each shape, one per lane and in their order, before the next shape starts.

    The order of shapes is random, from ``seed``; request rates ascend, and those above a saturating rate are skipped. A
    lane that stops answering fails in all remaining shapes, without being measured.

    Args:
        lanes: one server, or two servers with interleaved trials.
        shapes: the shapes to measure.
        trials: number of waves of each shape that count.
        seed: seed of prompts, arrival times and order.
        on_progress: receives a description of the next step.
    """
    tracks = [_Track(lane, seed) for lane in lanes]
    for shape in in_order(shapes, seed):
        cells = await _measure(tracks, shape, trials=trials, seed=seed, on_progress=on_progress)
        yield tuple(cells)
        for track, cell in zip(tracks, cells, strict=True):
            await track.learn(cell)
