"""Run quantbench's client in a separate process, like its peers: one wave, with its medians as JSON.

``python -m benchmarks.peers.run_quantbench URL PROTOCOL REQUESTS INPUT_LEN OUTPUT_LEN``
"""

import asyncio
import gc
import json
import random
import sys
from statistics import median

from bench.speed.client import Client, run
from bench.speed.metrics import tpot_s, ttft_s


async def _wave(url: str, protocol: str, requests: int, input_len: int, output_len: int) -> dict[str, float]:
    rng = random.Random(0)
    prompts = [[rng.randrange(1000, 9000) for _ in range(input_len)] for _ in range(requests)]
    async with Client(url, protocol=protocol, total_timeout_s=300, stall_timeout_s=60) as client:
        gc.collect()
        gc.freeze()
        gc.disable()
        traces = await asyncio.gather(*(client.generate(prompt, max_new_tokens=output_len) for prompt in prompts))
    broken = [trace.error for trace in traces if trace.error]
    if broken:
        raise SystemExit(f"{len(broken)} requests failed: {broken[0]}")
    return {
        "requests": len(traces),
        "tokens": sum(sum(trace.event_tokens) for trace in traces),
        "ttft_ms": 1e3 * median(ttft_s(trace) or 0.0 for trace in traces),
        "tpot_ms": 1e3 * median(tpot_s(trace) or 0.0 for trace in traces),
    }


if __name__ == "__main__":
    url, protocol, *numbers = sys.argv[1:]
    print(json.dumps(run(_wave(url, protocol, *map(int, numbers)))))
