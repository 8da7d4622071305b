"""Lanes over streaming servers, and the cells of their sweeps."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from bench.records.record import SpeedCell, Variant
from bench.speed.client import Client, run
from bench.speed.shapes import Shape, closed_loop
from bench.speed.sweep import Lane, sweep
from testkit.streamer import Running, Script

VOCABULARY = tuple(range(100, 5000))
SHAPE = closed_loop(6, 4, 1)


class Seen:
    """A monitor with given readings."""

    def __init__(self, **fields: Any) -> None:
        self.readings = {"peak_memory_bytes": 1000, **fields}

    @asynccontextmanager
    async def trial(self) -> AsyncIterator["Seen"]:
        yield self

    def fields(self) -> dict[str, Any]:
        return self.readings


def good(n: int = 4) -> Script:
    return Script([(0.001, 1)] * n)


def lane(client: Client, quant: str = "q", **changes: Any) -> Lane:
    values: dict[str, Any] = {
        "client": client,
        "variant": Variant(model="m", quant=quant),
        "engine": "fake",
        "emulated": False,
        "facts": None,
        "monitor": Seen(),
        "alive": lambda: None,
        "exceeds": lambda cell: None,
        "vocabulary": VOCABULARY,
    }
    return Lane(**(values | changes))


def sweep_all(
    urls: Sequence[str],
    shapes: Sequence[Shape],
    *,
    trials: int = 3,
    seed: int = 5,
    on_progress: Callable[[str], None] = lambda text: None,
    on_cells: Callable[[tuple[SpeedCell, ...]], None] = lambda cells: None,
    protocol: str = "sglang",
    stall_s: float = 0.5,
    **changes: Any,
) -> list[tuple[SpeedCell, ...]]:
    async def main() -> list[tuple[SpeedCell, ...]]:
        measured = []
        async with AsyncExitStack() as stack:
            lanes = []
            for url, quant in zip(urls, "ab", strict=False):
                client = Client(url, protocol=protocol, total_timeout_s=10, stall_timeout_s=stall_s)
                lanes.append(lane(await stack.enter_async_context(client), quant, **changes))
            sweeping = sweep(lanes, shapes, trials=trials, seed=seed, on_progress=on_progress)
            async for cells in await stack.enter_async_context(aclosing(sweeping)):
                measured.append(cells)
                on_cells(cells)
        return measured

    return run(main())


def measure(server: Running, *scripts: Script, shape: Shape = SHAPE, **changes: Any) -> SpeedCell:
    server.load(*scripts)
    [[cell]] = sweep_all([server.base_url], [shape], **changes)
    return cell


def measure_all(server: Running, shapes: Sequence[Shape], **changes: Any) -> list[SpeedCell]:
    return [cell for (cell,) in sweep_all([server.base_url], shapes, **changes)]


def opened(rate: float, n: int, most: int = 100) -> Shape:
    return Shape(input_len=6, output_len=4, concurrency=most, request_rate_per_s=rate, n_requests=n)
