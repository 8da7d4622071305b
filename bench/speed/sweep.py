"""Measures shapes on a running server: warm up, flush, fire the requests together, check, one cell after the other."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.errors import EngineError, SourceError
from bench.record import SpeedCell, Status, Trial, Variant
from bench.speed.client import Client, now_ns
from bench.speed.shapes import Shape
from bench.speed.validity import judge

MEMORY_PERIOD_S = 0.2


def ordinary_vocabulary(tokenizer_json: Path) -> tuple[int, ...]:
    """Return the ids of a Hugging Face ``tokenizer.json`` that stand for ordinary text, in order.

    Added tokens (end of text, chat markers, …) are left out: they change what a server or a model does.

    Raises:
        SourceError: the file is missing, is not JSON, or holds no vocabulary.
    """
    try:
        tokenizer: dict[str, Any] = json.loads(tokenizer_json.read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        added = {token["id"] for token in tokenizer["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{tokenizer_json} has no vocabulary that can be read ({error!r})") from error
    # BPE and WordPiece map text to id; Unigram lists (text, score), and the position is the id.
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return tuple(sorted(set(ids) - added))


def random_prompt(vocabulary: Sequence[int], n: int, rng: random.Random) -> list[int]:
    """Return ``n`` ids drawn evenly from ``vocabulary``."""
    return rng.choices(vocabulary, k=n)


def wave_prompts(vocabulary: Sequence[int], shape: Shape, *, seed: int, wave: int) -> list[list[int]]:
    """Return the prompts of one wave, one for each request; another wave, shape or seed gives others.

    They follow from the arguments alone, so a cell is the same wherever it stands in the order. No two begin with
    the same id: a server that keeps prefixes would take that one from its cache.
    """
    rng = random.Random(f"{seed}/{shape.input_len}/{shape.output_len}/{shape.concurrency}/{wave}")
    heads = rng.sample(vocabulary, shape.concurrency)
    return [[head, *random_prompt(vocabulary, shape.input_len - 1, rng)] for head in heads]


def not_supported(shape: Shape, context_length: int) -> str | None:
    """Return why a shape cannot run within ``context_length`` tokens; None if it can."""
    if shape.input_len + shape.output_len <= context_length:
        return None
    return f"{shape.input_len} + {shape.output_len} tokens are more than the context of {context_length}"


class _PeakMemory:
    """Highest memory seen while a ``with`` block runs, sampled beside the event loop."""

    def __init__(self, memory: Callable[[], int | None]) -> None:
        self.bytes: int | None = None
        self._memory = memory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            now = self._memory()
            if now is not None:
                self.bytes = max(now, self.bytes or 0)
            if self._over.wait(MEMORY_PERIOD_S):
                return


async def _wave(
    client: Client, prompts: Sequence[Sequence[int]], output_len: int, memory: Callable[[], int | None]
) -> Trial:
    """Send all prompts together and return what was seen."""
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with _PeakMemory(memory) as peak:
        origin_ns = now_ns()
        traces = await asyncio.gather(
            *(client.generate(prompt, max_new_tokens=output_len, origin_ns=origin_ns) for prompt in prompts)
        )
    return Trial(requests=tuple(traces), started_at=started_at, peak_memory_bytes=peak.bytes)


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
    """Measure one shape; whatever goes wrong ends up in the cell.

    Before every wave the cache is flushed and fresh prompts are drawn. The first wave warms the server up at this
    very shape and is discarded, unless it broke: then it is the evidence. No wave follows a broken one.

    Args:
        client: of the running server.
        shape: what to send.
        variant: what is served.
        engine: what serves it.
        vocabulary: ids to draw prompts from; at least as many as requests at once.
        trials: waves to measure.
        seed: of the prompts.
        emulated: the engine does not compute on quantized kernels.
        memory: returns the server's resident memory in bytes; called from another thread.
        on_progress: told in words what happens next.
    """
    kept: list[Trial] = []
    status: Status
    try:
        for wave in range(trials + 1):
            on_progress(
                f"{shape.input_len} in, {shape.output_len} out, {shape.concurrency} at once: "
                + (f"trial {wave} of {trials}" if wave else "warm-up")
            )
            await client.flush_cache()
            prompts = wave_prompts(vocabulary, shape, seed=seed, wave=wave)
            trial = await _wave(client, prompts, shape.output_len, memory)
            broke = any(trace.error is not None for trace in trial.requests)
            if wave or broke:
                kept.append(trial)
            if broke:
                break
        status, reasons = judge(kept, input_len=shape.input_len, output_len=shape.output_len, emulated=emulated)
    except EngineError as error:
        status, reasons = "failed", (str(error),)
    return SpeedCell(
        variant=variant,
        engine=engine,
        **shape.model_dump(),
        seed=seed,
        status=status,
        reasons=reasons,
        trials=tuple(kept),
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
    """Yield one cell for each shape, in an order drawn from ``seed``; the arguments are those of `measure_cell`.

    Each cell is yielded before the next one begins, so that it can be stored first. After a failed cell the server
    must show that it still generates; if it does not, the cells that are left are ``failed`` without a try.
    """
    gone: str | None = None
    for shape in random.Random(seed).sample(shapes, k=len(shapes)):
        if gone is not None:
            yield SpeedCell(
                variant=variant,
                engine=engine,
                **shape.model_dump(),
                seed=seed,
                status="failed",
                reasons=(f"not measured, for the server had stopped answering: {gone}",),
                trials=(),
            )
            continue
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
        yield cell
        if cell.status == "failed":
            try:
                await client.health_generate()
            except EngineError as error:
                gone = str(error)
