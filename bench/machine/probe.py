"""Measures what this CPU can do at most: how fast it reads memory, and how fast it multiplies.

``python -m bench.machine.probe --threads N`` prints one line of JSON after about 10 s, later on a busy machine. It runs
in the interpreter of the engine, because that engine's libraries set the limit, and therefore imports nothing of
quantbench. Without torch it uses numpy, which reads and multiplies in float32 only.

Every figure is the best of many repetitions: a limit is what the machine can do, not what it does on average. On a busy
machine the best is still too low.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

SIZES = tuple(2**exponent for exponent in range(18, 31))
"""Bytes that are read over and over: 256 KiB, which a core's own cache holds, to 1 GiB, which none does."""
FIGURE_S = 0.3
"""Time that one figure is measured for. Chosen: a hundred repetitions or more, of which the best counts."""
ROUND_S = 0.002
"""Shortest time that one repetition is measured over."""
COLUMNS = 2048
"""Columns of the matrix that is read. Chosen: as wide as those of models."""
EDGES = (512, 1024, 2048, 4096)
"""Edges of the square matrices that are multiplied: those of small and of large models."""
TOO_SLOW_S = 0.04
"""A product that takes this long is not followed by a larger one, which would take 8 times as long."""


def best_seconds(work: Callable[[], object], budget_s: float) -> float:
    """Return the shortest time that ``work`` took in about ``budget_s`` seconds; it is done three times at least."""
    work()
    begin = time.perf_counter()
    work()
    first = time.perf_counter() - begin
    # Work that is shorter than the clock's own noise is repeated within one measurement.
    times = max(1, round(ROUND_S / max(first, 1e-7)))
    best = first if times == 1 else float("inf")
    end = time.perf_counter() + budget_s
    while True:
        begin = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, (time.perf_counter() - begin) / times)
        if time.perf_counter() > end:
            return best


def _torch_readers(torch: Any, size: int) -> Iterator[Callable[[], object]]:
    """Yield ways to read ``size`` bytes once: a decode step's own product of matrix and vector, and plain ones."""
    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
        matrix = torch.ones(size // width // COLUMNS, COLUMNS, dtype=dtype)
        vector = torch.ones(1, COLUMNS, dtype=dtype)
        yield partial(torch.nn.functional.linear, vector, matrix)
    numbers = torch.ones(size // 4)
    yield numbers.sum
    yield numbers.max


def _torch_products(torch: Any, edge: int) -> dict[str, Callable[[], object]]:
    """Return {type: a product of two square matrices}."""
    single = torch.ones(edge, edge)
    half, small = single.bfloat16(), single.to(torch.int8)
    return {
        "fp32": lambda: single @ single,
        "bf16": lambda: half @ half,
        "int8": lambda: torch._int_mm(small, small),
    }


def probe_torch(threads: int) -> dict[str, Any]:
    """Return what torch can do with ``threads`` threads.

    Raises:
        ImportError: there is no torch.
    """
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        bandwidth = []
        for size in SIZES:
            # Main memory is what most models live in, and its figure needs the most time.
            budget_s = FIGURE_S if size >= 2**28 else FIGURE_S / 4
            seconds = [best_seconds(read, budget_s) for read in _torch_readers(torch, size)]
            bandwidth.append((size, size / min(seconds)))
        return {
            "how": f"torch {torch.__version__}",
            "bandwidth_by_size": bandwidth,
            "flops_per_s": _products(lambda edge: _torch_products(torch, edge)),
        }


def _products(of_edge: Callable[[int], dict[str, Callable[[], object]]]) -> dict[str, float]:
    """Return {type: FLOPs per second} of the fastest product, larger ones tried while they are quick."""
    best: dict[str, float] = {}
    slow: set[str] = set()
    for edge in EDGES:
        for kind, multiply in of_edge(edge).items():
            if kind in slow:
                continue
            try:
                seconds = best_seconds(multiply, FIGURE_S)
            except (RuntimeError, NotImplementedError):  # this build has no such product
                slow.add(kind)
                continue
            best[kind] = max(best.get(kind, 0.0), 2 * edge**3 / seconds)
            if seconds > TOO_SLOW_S:
                slow.add(kind)
    return best


def probe_numpy(threads: int) -> dict[str, Any]:
    """Return what numpy can do: sums of float32 in ``threads`` threads, and products by its own BLAS.

    Raises:
        ImportError: there is no numpy.
    """
    import numpy as np

    with ThreadPoolExecutor(threads) as pool:

        def read(size: int) -> Callable[[], object]:
            parts = np.array_split(np.ones(size // 4, dtype=np.float32), threads)
            return lambda: list(pool.map(np.sum, parts))

        bandwidth = [(size, size / best_seconds(read(size), FIGURE_S)) for size in SIZES]

    def products(edge: int) -> dict[str, Callable[[], object]]:
        matrix = np.ones((edge, edge), dtype=np.float32)
        return {"fp32": lambda: matrix @ matrix}

    return {"how": f"numpy {np.__version__}", "bandwidth_by_size": bandwidth, "flops_per_s": _products(products)}


def main() -> int:
    """Print what was found and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.machine.probe", description="Measure what this CPU can do at most."
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", cores)))
    threads = parser.parse_args().threads
    try:
        figures = probe_torch(threads)
    except ImportError:
        try:
            figures = probe_numpy(threads)
        except ImportError:
            sys.stderr.write(f"error: {sys.executable} has neither torch nor numpy: pip install numpy\n")
            return 1
    sys.stdout.write(f"{json.dumps({'threads': threads, **figures})}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
