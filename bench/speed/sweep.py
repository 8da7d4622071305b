"""The sweep: for each shape warm up, flush, measure, judge; one cell at a time, so that each can be kept at once."""

import asyncio
import hashlib
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bench.errors import EngineError
from bench.record import SpeedCell, Status, Trial, Variant
from bench.speed.client import Client, now_ns
from bench.speed.validity import judge

MEMORY_SECONDS = 0.2
WARM_UP = -1
"""Number of the trial that is discarded; its prompts differ from every other's."""


class Shape(Protocol):
    """Lengths in tokens, and how many requests at once."""

    @property
    def input_len(self) -> int: ...  # noqa: D102
    @property
    def output_len(self) -> int: ...  # noqa: D102
    @property
    def concurrency(self) -> int: ...  # noqa: D102


def ordinary_vocabulary(tokenizer_json: Path) -> tuple[int, ...]:
    """Return the ids of a tokenizer's ordinary tokens, sorted: its model's vocabulary without the added tokens."""
    tokenizer = json.loads(tokenizer_json.read_bytes())
    vocabulary = tokenizer["model"]["vocab"]
    ids = set(vocabulary.values()) if isinstance(vocabulary, dict) else set(range(len(vocabulary)))
    return tuple(sorted(ids - {token["id"] for token in tokenizer.get("added_tokens", ())}))


def random_prompt(vocabulary: Sequence[int], n: int, rng: random.Random) -> list[int]:
    """Return ``n`` ids drawn from the vocabulary."""
    return rng.choices(vocabulary, k=n)


def not_supported(shape: Shape, context_length: int) -> str | None:
    """Return why a shape cannot be measured on a model of this context length, or None."""
    total = shape.input_len + shape.output_len
    if total <= context_length:
        return None
    return f"{shape.input_len} + {shape.output_len} = {total} tokens are more than the context of {context_length}"


class _Memory:
    """Samples memory in a thread of its own while a trial runs, and keeps the highest value."""

    def __init__(self, sample: Callable[[], int | None]) -> None:
        self.peak: int | None = None
        self._sample = sample
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            found = self._sample()
            if found is not None:
                self.peak = max(self.peak or 0, found)
            if self._stop.wait(MEMORY_SECONDS):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def _rng(seed: int, shape: Shape, trial: int, request: int) -> random.Random:
    """Return a generator that depends on all of these and on nothing else, so that cells do not depend on order."""
    text = f"{seed}/{shape.input_len}/{shape.output_len}/{shape.concurrency}/{trial}/{request}"
    return random.Random(hashlib.sha256(text.encode()).digest())


async def _wave(client: Client, shape: Shape, vocabulary: Sequence[int], seed: int, trial: int) -> Trial:
    """Flush the cache, send ``concurrency`` requests together and return what was seen."""
    prompts = [
        random_prompt(vocabulary, shape.input_len, _rng(seed, shape, trial, request))
        for request in range(shape.concurrency)
    ]
    await client.flush_cache()
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    origin = now_ns()
    requests = await asyncio.gather(
        *(client.generate(prompt, max_new_tokens=shape.output_len, origin_ns=origin) for prompt in prompts)
    )
    return Trial(requests=tuple(requests), started_at=started_at, peak_memory_bytes=None)


async def measure_cell(
    client: Client,
    shape: Shape,
    *,
    variant: Variant,
    engine: str,
    vocabulary: Sequence[int],
    trials: int,
    seed: int,
    emulated: bool,
    memory: Callable[[], int | None],
    on_progress: Callable[[str], None],
) -> SpeedCell:
    """Warm up at the shape, then measure it ``trials`` times, each with fresh prompts and an empty cache.

    Args:
        client: of the running server.
        shape: lengths and concurrency.
        variant: what is served.
        engine: by what.
        vocabulary: ids that prompts are drawn from.
        trials: measured waves.
        seed: of the prompts.
        emulated: whether the engine runs the variant on other kernels than its own.
        memory: returns the server's resident bytes, or None.
        on_progress: told in words what happens.
    """
    seen: list[Trial] = []
    status: Status
    reasons: tuple[str, ...]
    try:
        on_progress(f"{shape.input_len} in, warm-up")
        await _wave(client, shape, vocabulary, seed, WARM_UP)
        for trial in range(trials):
            on_progress(f"{shape.input_len} in, trial {trial + 1} of {trials}")
            with _Memory(memory) as watch:
                found = await _wave(client, shape, vocabulary, seed, trial)
            seen.append(found.model_copy(update={"peak_memory_bytes": watch.peak}))
            if any(trace.error for trace in found.requests) and not await client.is_alive():
                break
        status, reasons = judge(seen, input_len=shape.input_len, output_len=shape.output_len, emulated=emulated)
    except EngineError as error:
        status, reasons = "failed", (str(error),)
    return SpeedCell(
        variant=variant,
        engine=engine,
        input_len=shape.input_len,
        output_len=shape.output_len,
        concurrency=shape.concurrency,
        seed=seed,
        status=status,
        reasons=reasons,
        trials=tuple(seen),
    )


async def sweep(
    client: Client,
    shapes: Sequence[Shape],
    *,
    variant: Variant,
    engine: str,
    vocabulary: Sequence[int],
    trials: int,
    seed: int,
    emulated: bool,
    memory: Callable[[], int | None],
    on_progress: Callable[[str], None],
) -> AsyncIterator[SpeedCell]:
    """Yield one cell per shape, in an order shuffled by ``seed``; arguments as for :func:`measure_cell`.

    Once the server has died, the shapes that are left are yielded as ``failed`` without being tried.
    """
    order = list(shapes)
    random.Random(seed).shuffle(order)
    dead: str | None = None
    for shape in order:
        if dead is None:
            cell = await measure_cell(
                client,
                shape,
                variant=variant,
                engine=engine,
                vocabulary=vocabulary,
                trials=trials,
                seed=seed,
                emulated=emulated,
                memory=memory,
                on_progress=on_progress,
            )
            if cell.status == "failed" and not await client.is_alive():
                dead = f"not tried: the server died while {shape.input_len} tokens in were measured"
        else:
            cell = SpeedCell(
                variant=variant,
                engine=engine,
                input_len=shape.input_len,
                output_len=shape.output_len,
                concurrency=shape.concurrency,
                seed=seed,
                status="failed",
                reasons=(dead,),
                trials=(),
            )
        yield cell
