"""Send one wave of requests, all together or as a closed or open loop, and return the trial.

Nothing else runs during a wave: garbage collection is off, and the server is checked only once a second, so that one
that died or hangs ends the wave with a reason instead of a timeout.
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
"""Interval of checks on a server with requests in flight. Chosen: short compared with the time after which it hangs."""
SPIN_S = 0.001
"""Timers of an event loop may be late by a millisecond, so the last one before a due time is spent spinning."""


class Observation(Protocol):
    """Readings of the machine during a trial, complete once it is over."""

    def fields(self) -> dict[str, Any]:
        """Return the readings under the field names of :class:`bench.records.record.Trial`."""


class Observer(Protocol):
    """Monitors the machine during a trial, as :class:`bench.speed.monitor.Monitor` does."""

    def trial(self) -> AbstractAsyncContextManager[Observation]:
        """Monitor the machine for the duration of an ``async with`` block."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Turn off Python's garbage collector, which would pause the client, within the block."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _watch(client: Client, alive: Callable[[], str | None]) -> None:
    """End all requests once the server is gone, including those that start later."""
    while True:
        await asyncio.sleep(ALIVE_PERIOD_S)
        reason = alive()
        if reason is not None:
            client.fail_all(reason)


async def _until(due_ns: int) -> None:
    """Return at the given time, or immediately if it has passed."""
    while (left_s := (due_ns - now_ns()) / NS_PER_S) > 0:
        await asyncio.sleep(left_s - SPIN_S if left_s > SPIN_S else 0)


async def _closed_loop(
    client: Client, prompts: Sequence[Sequence[int]], output_len: int, concurrency: int, origin_ns: int
) -> list[RequestTrace]:
    """Send the prompts from ``concurrency`` slots, each sending the next prompt once its answer is complete."""
    remaining = iter(prompts)
    traces: list[RequestTrace] = []

    async def slot() -> None:
        for prompt in remaining:
            trace = await client.generate(prompt, max_new_tokens=output_len, origin_ns=origin_ns)
            traces.append(trace)
            if trace.error is not None:
                # The trial has failed: no slot sends another request.
                deque(remaining, maxlen=0)

    async with asyncio.TaskGroup() as slots:
        for _ in range(concurrency):
            slots.create_task(slot())
    return traces


class _OpenLoop:
    """A running open loop."""

    def __init__(self, client: Client, output_len: int, most: int, origin_ns: int) -> None:
        self.traces: list[RequestTrace] = []
        self.saturated: str | None = None
        self._client = client
        self._output_len = output_len
        self._most = most
        self._origin_ns = origin_ns
        self._sent_s: list[float] = []
        self._answered_s: list[float] = []
        self._fastest_s: float | None = None
        self._broke = False

    def _now_s(self) -> float:
        return (now_ns() - self._origin_ns) / NS_PER_S

    async def _request(self, prompt: Sequence[int], due_ns: int) -> None:
        begin_s = self._now_s()
        self._sent_s.append(begin_s)
        trace = await self._client.generate(
            prompt, max_new_tokens=self._output_len, origin_ns=self._origin_ns, scheduled_ns=due_ns
        )
        self.traces.append(trace)
        if trace.error is not None:
            self._broke = True
            return
        self._answered_s.append(self._now_s())
        took_s = self._answered_s[-1] - begin_s
        self._fastest_s = took_s if self._fastest_s is None else min(took_s, self._fastest_s)

    async def run(self, prompts: Sequence[Sequence[int]], due_ns: Sequence[int]) -> None:
        """Send each prompt when it is due, until a request fails or the load exceeds the server's capacity."""
        async with asyncio.TaskGroup() as requests:
            for prompt, at_ns in zip(prompts, due_ns, strict=True):
                await _until(self._origin_ns + at_ns)
                # Even if the time had passed, lets the loop process answers that have arrived.
                await asyncio.sleep(0)
                self.saturated = saturation(
                    self._sent_s, self._answered_s, now_s=self._now_s(), fastest_s=self._fastest_s, most=self._most
                )
                if self._broke:
                    return
                if self.saturated:
                    self._client.fail_all(self.saturated)
                    return
                requests.create_task(self._request(prompt, at_ns))
        if not self._broke and self._fastest_s is not None:
            self.saturated = fell_behind(self._sent_s, self._answered_s, fastest_s=self._fastest_s)


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
    """Send the prompts and return the trial.

    Args:
        client: client of the server.
        observer: monitors the machine during the wave.
        prompts: one per request.
        output_len: tokens that each requests.
        concurrency: slots of a closed loop; in an open loop, the number of requests in flight that stops it.
        due_ns: when each request is due, since the start of the wave; None for a closed loop.
        alive: returns why the server is gone or hangs, or None; called once a second.

    Raises:
        EngineError: an accelerator was lost.
    """
    started_at = utc_now("milliseconds")
    saturated = None
    with _no_collection():
        async with observer.trial() as observation:
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
    return Trial(requests=requests, started_at=started_at, saturated=saturated, **observation.fields())
