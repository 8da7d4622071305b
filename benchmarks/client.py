"""How far the speed client is from the truth: a scripted server tells when it really wrote each event."""

import asyncio
import random
from statistics import median

from bench.speed.client import Client
from bench.speed.metrics import tpot_s, ttft_s
from tests.fake_server import Script, Truth, running

CONCURRENCY = (1, 16, 64, 256)
TOKENS = 128


def _script(rng: random.Random) -> Script:
    """Return uneven gaps around 20 ms, some events with two tokens."""
    steps = [(0.2 + 0.1 * rng.random(), 1)]
    while sum(tokens for _, tokens in steps) < TOKENS:
        steps.append((rng.uniform(0.005, 0.035), rng.choice((1, 1, 1, 2))))
    return Script(steps=steps)


def _true_ttft_s(truth: Truth) -> float:
    return (truth.written[0][0] - truth.received_ns) / 1e9


def _true_tpot_s(truth: Truth) -> float:
    later = sum(tokens for _, tokens in truth.written[1:])
    return (truth.written[-1][0] - truth.written[0][0]) / later / 1e9


def _row(concurrency: int) -> str:
    rng = random.Random(concurrency)
    with running() as server:
        server.load(*(_script(rng) for _ in range(concurrency)))

        async def wave() -> list[tuple[float | None, float | None]]:
            async with Client(server.base_url, total_timeout_s=120, stall_timeout_s=60) as client:
                traces = await asyncio.gather(
                    *(client.generate([5] * 64, max_new_tokens=TOKENS) for _ in range(concurrency))
                )
            assert all(trace.error is None for trace in traces), [trace.error for trace in traces if trace.error]
            return [(ttft_s(trace), tpot_s(trace)) for trace in traces]

        seen = asyncio.run(wave())
        truth = server.truth()
    # Requests and truths need not be in the same order: medians are compared.
    ttft_ms = 1e3 * (median(t for t, _ in seen if t) - median(map(_true_ttft_s, truth)))
    tpot = 100 * (median(t for _, t in seen if t) / median(map(_true_tpot_s, truth)) - 1)
    return f"| {concurrency} | {ttft_ms:+.2f} ms | {tpot:+.3f} % |"


def run() -> str:
    """Measure at each concurrency and return a table."""
    lines = ["Median TTFT and TPOT against what the scripted server really did; 128 tokens, about 20 ms apart.", ""]
    lines += ["| concurrency | TTFT error | TPOT error |", "|---|---|---|", *map(_row, CONCURRENCY)]
    return "\n".join(lines)
