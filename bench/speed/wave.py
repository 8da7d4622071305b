"""Sends one wave of requests and keeps what was seen: all together, a closed loop, or an open loop.

While a wave runs nothing else does: no garbage is collected, and the server is only looked at once a second, so that
one that died or hangs ends the wave with a reason and not with a timeout.
"""

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol

from bench.records.record import RequestTrace, Trial
from bench.speed.client import Client, now_ns
from bench.speed.load import NS_PER_S, fell_behind, saturation
from quantize.clock import utc_now

ALIVE_PERIOD_S = 1.0
"""How often a server that owes tokens is looked at. Chosen: often next to the seconds after which it hangs."""
SPIN_S = 0.001
"""An event loop's timers may be late by a millisecond; the last one before a due time is spent turning the loop."""


class Observation(Protocol):
    """What was seen during a trial, once it is over."""

    def fields(self) -> dict[str, Any]:
        """Return it by the names of :class:`bench.records.record.Trial`."""


class Observer(Protocol):
    """Watches the machine during a trial, as :class:`bench.speed.monitor.Monitor` does."""

    def trial(self) -> AbstractAsyncContextManager[Observation]:
        """Watch for the duration of an ``async with`` block."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector, which stops everything, from running within the block."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _watch(client: Client, alive: Callable[[], str | None]) -> None:
    """End all requests as soon as the server is gone; also those that begin afterwards."""
    while True:
        await asyncio.sleep(ALIVE_PERIOD_S)
        reason = alive()
        if reason is not None:
            client.fail_all(reason)


async def _until(due_ns: int) -> None:
    """Return at a time of the clock, or at once if it has passed."""
    while (left_s := (due_ns - now_ns()) / NS_PER_S) > 0:
        await asyncio.sleep(left_s - SPIN_S if left_s > SPIN_S else 0)


async def _closed_loop(
    client: Client, prompts: Sequence[Sequence[int]], output_len: int, concurrency: int, origin_ns: int
) -> list[RequestTrace]:
    """Let ``concurrency`` slots send the prompts, each the next one when its answer is complete."""
    left = iter(prompts)
    traces: list[RequestTrace] = []

    async def slot() -> None:
        for prompt in left:
            trace = await client.generate(prompt, max_new_tokens=output_len, origin_ns=origin_ns)
            traces.append(trace)
            if trace.error is not None:
                # The trial is lost: no slot sends another.
                deque(left, maxlen=0)

    async with asyncio.TaskGroup() as slots:
        for _ in range(concurrency):
            slots.create_task(slot())
    return traces


class _OpenLoop:
    """An open loop under way."""

    def __init__(self, client: Client, output_len: int, most: int, origin_ns: int) -> None:
        self.traces: list[RequestTrace] = []
        self.saturated: str | None = None
        self._client = client
        self._output_len = output_len
        self._most = most
        self._origin_ns = origin_ns
        self._came_s: list[float] = []
        self._went_s: list[float] = []
        self._fastest_s: float | None = None
        self._broke = False

    def _now_s(self) -> float:
        return (now_ns() - self._origin_ns) / NS_PER_S

    async def _one(self, prompt: Sequence[int], due_ns: int) -> None:
        begin_s = self._now_s()
        self._came_s.append(begin_s)
        trace = await self._client.generate(
            prompt, max_new_tokens=self._output_len, origin_ns=self._origin_ns, scheduled_ns=due_ns
        )
        self.traces.append(trace)
        if trace.error is not None:
            self._broke = True
            return
        self._went_s.append(self._now_s())
        took_s = self._went_s[-1] - begin_s
        self._fastest_s = took_s if self._fastest_s is None else min(took_s, self._fastest_s)

    async def run(self, prompts: Sequence[Sequence[int]], due_ns: Sequence[int]) -> None:
        """Send each prompt when it is due, until a request breaks or more come than the server can take."""
        async with asyncio.TaskGroup() as requests:
            for prompt, at_ns in zip(prompts, due_ns, strict=True):
                await _until(self._origin_ns + at_ns)
                # Also where nothing was waited for: answers that came meanwhile are taken in.
                await asyncio.sleep(0)
                self.saturated = saturation(
                    self._came_s, self._went_s, now_s=self._now_s(), fastest_s=self._fastest_s, most=self._most
                )
                if self._broke:
                    return
                if self.saturated:
                    self._client.fail_all(self.saturated)
                    return
                requests.create_task(self._one(prompt, at_ns))
        if not self._broke and self._fastest_s is not None:
            self.saturated = fell_behind(self._came_s, self._went_s, fastest_s=self._fastest_s)


async def send_wave(
    client: Client,
    observer: Observer,
    prompts: Sequence[Sequence[int]],
    *,
    output_len: int,
    concurrency: int,
    due_ns: Sequence[int] | None,
    alive: Callable[[], str | None],
) -> Trial:
    """Send the prompts and return what was seen.

    Args:
        client: of the server.
        observer: watches the machine meanwhile.
        prompts: one for each request.
        output_len: tokens that each asks for.
        concurrency: slots of a closed loop; in an open loop the requests under way that are too many.
        due_ns: when each request is due, since the wave began; None for a closed loop.
        alive: returns why the server is gone or hangs, or None; called once a second.

    Raises:
        EngineError: an accelerator was lost.
    """
    started_at = utc_now("milliseconds")
    saturated = None
    with _no_collection():
        async with observer.trial() as observed:
            watch = asyncio.create_task(_watch(client, alive))
            origin_ns = now_ns()
            try:
                if due_ns is None:
                    traces = await _closed_loop(client, prompts, output_len, concurrency, origin_ns)
                else:
                    loop = _OpenLoop(client, output_len, concurrency, origin_ns)
                    await loop.run(prompts, due_ns)
                    traces, saturated = loop.traces, loop.saturated
            finally:
                watch.cancel()
    requests = tuple(sorted(traces, key=lambda trace: trace.start_ns))
    return Trial(requests=requests, started_at=started_at, saturated=saturated, **observed.fields())
