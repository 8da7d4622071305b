"""Error and cost of streaming clients: quantbench's client and its peers, on one scripted server.

The server reports when it actually wrote each event. Every tool runs in a separate process, with its best documented
settings, and is compared with the server's times of the same run; the tools are interleaved.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.config.compose import compose_job
from bench.errors import ToolchainError
from bench.paths import cache_dir
from bench.plan.stages import plan
from benchmarks.peers.places import interpreter, version
from benchmarks.peers.tools import INPUT_LEN, TOOLS, Job, Tool, command, environment
from testkit.streamer import Pace, Running, Truth, running

CONCURRENCY = (1, 16, 64, 256)
OUTPUT_LEN = 128
UNEVEN = ((0.2, 0.3), (0.005, 0.035), (1, 1, 1, 2))
"""The first event after 200 to 300 ms, then gaps of 5 to 35 ms; one event in four has two tokens."""
STREAM_AT_ONCE = 64
STREAM_LEN = 1024
STEADY = ((0.2, 0.3), (0.01, 0.01))
"""One token every 10 ms on each of the streams."""
ROUNDS = int(os.environ.get("QUANTBENCH_BENCH_ROUNDS", "3"))
TIMEOUT_S = 300


@dataclass(frozen=True)
class Run:
    """One run of a tool."""

    ttft_error_ms: float
    tpot_error: float
    """Relative error."""
    cpu_s: float
    """CPU time of the tool and all its children."""
    tokens: int


def _true_ttft_ms(truth: Truth) -> float:
    return (truth.written[0][0] - truth.received_ns) / 1e6


def _true_tpot_ms(truth: Truth) -> float:
    later = sum(tokens for _, tokens in truth.written[1:])
    return (truth.written[-1][0] - truth.written[0][0]) / later / 1e6


def _pace(steps: tuple[tuple[float, ...], ...], requests: int, output_len: int, seed: int) -> Pace:
    first_s, gap_s, *tokens = steps
    return Pace(
        (first_s[0], first_s[1]), (gap_s[0], gap_s[1]), tuple(map(int, tokens[0])) if tokens else (1,),
        seed=seed, wanted=output_len, prepared=requests,
    )  # fmt: skip


def _run(tool: Tool, python: str, server: Running, job: Job, pace: Pace) -> Run:
    """Run a tool once and compare its report with the server's times.

    Raises:
        RuntimeError: the tool failed, or did not send the expected requests.
    """
    server.load(pace=pace)
    with (job.folder / "stdout").open("w") as out, (job.folder / "stderr").open("w") as err:
        argv = ["timeout", str(TIMEOUT_S), *command(tool, python, job)]
        child = subprocess.Popen(argv, cwd=job.folder, env=environment(tool), stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        last = (job.folder / "stderr").read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"{tool.name} ended with {child.returncode}: {' '.join(last)}")
    ttft_ms, tpot_ms = tool.read(job, (job.folder / "stdout").read_text())
    # Earlier ones may be from a warm-up.
    complete = [request for request in server.truth() if sum(n for _, n in request.written) == job.output_len]
    truth = complete[-job.requests :]
    if len(truth) != job.requests:
        raise RuntimeError(f"{tool.name} sent {len(truth)} complete requests instead of {job.requests}")
    return Run(
        ttft_error_ms=ttft_ms - median(map(_true_ttft_ms, truth)),
        tpot_error=tpot_ms / median(map(_true_tpot_ms, truth)) - 1,
        cpu_s=usage.ru_utime + usage.ru_stime,
        tokens=job.requests * job.output_len,
    )


def _round(tool: Tool, python: str, place: Path, tokenizer: Path, seed: int) -> tuple[dict[int, Run], float]:
    """Return (runs by concurrency, streamed tokens per CPU second) of one tool in one round."""
    with running() as server:

        def measure(name: str, requests: int, output_len: int, steps: tuple[tuple[float, ...], ...]) -> Run:
            folder = place / f"{TOOLS.index(tool)}-{seed}-{name}"
            folder.mkdir()
            job = Job(server.base_url, requests, output_len, tokenizer, folder)
            return _run(tool, python, server, job, _pace(steps, requests, output_len, seed))

        exact = {n: measure(f"exact-{n}", n, OUTPUT_LEN, UNEVEN) for n in CONCURRENCY}
        start = measure("start", STREAM_AT_ONCE, 2, STEADY)
        stream = measure("stream", STREAM_AT_ONCE, STREAM_LEN, STEADY)
    return exact, (stream.tokens - start.tokens) / max(stream.cpu_s - start.cpu_s, 1e-3)


def _tokenizer(place: Path) -> Path:
    """Return the folder of a model whose tokenizer the tools can load, building it if necessary."""
    source = plan(compose_job(["+model=smollm2-135m", "quant=bf16", "session=bench"])).source
    assert source is not None
    if not (source.target / "tokenizer.json").exists():
        build = [sys.executable, "-m", "bench.run", "+model=smollm2-135m", "workload=none", "accuracy=none"]
        subprocess.run(build, cwd=place, check=True, capture_output=True)
    return source.target


def run() -> str:
    """Run all tools, interleaved, and return two tables."""
    exact: dict[Tool, list[dict[int, Run]]] = defaultdict(list)
    cost: dict[Tool, list[float]] = defaultdict(list)
    versions: dict[Tool, str] = {}
    trouble: list[str] = []
    with tempfile.TemporaryDirectory(dir=cache_dir()) as name:
        tokenizer = _tokenizer(Path(name))
        for turn in range(ROUNDS):
            for tool in TOOLS if turn % 2 == 0 else TOOLS[::-1]:
                try:
                    python = interpreter(tool.environment)
                    versions.setdefault(tool, version(python, tool.package))
                    runs, rate = _round(tool, python, Path(name), tokenizer, turn)
                except (RuntimeError, ToolchainError, OSError) as error:
                    trouble.append(f"- {tool.name} ({tool.api}), round {turn + 1}: {error}")
                    continue
                exact[tool].append(runs)
                cost[tool].append(rate)
    return "\n".join([*_tables(exact, cost, versions), *(["", "What did not work:", "", *trouble] if trouble else [])])


def _rounds() -> str:
    return "One round" if ROUNDS == 1 else f"Median of {ROUNDS} rounds"


def _tables(
    exact: dict[Tool, list[dict[int, Run]]], cost: dict[Tool, list[float]], versions: dict[Tool, str]
) -> list[str]:
    lines = [
        f"Median TTFT (ms) and TPOT (%) that each tool reports, less what the scripted server really did in that run: "
        f"{INPUT_LEN} tokens in, {OUTPUT_LEN} out, {UNEVEN[1][0] * 1e3:g} to {UNEVEN[1][1] * 1e3:g} ms apart, one "
        f"event in four with two tokens; all requests at once. {_rounds()} in turns.",
        "",
        "| client | asks at | " + " | ".join(f"{n} at once" for n in CONCURRENCY) + " |",
        "|---|---|" + "---|" * len(CONCURRENCY),
    ]
    for tool, rounds in exact.items():
        cells = [
            f"{median(runs[n].ttft_error_ms for runs in rounds):+.2f} ms, "
            f"{100 * median(runs[n].tpot_error for runs in rounds):+.3f} %"
            for n in CONCURRENCY
        ]
        lines.append(f"| {tool.name} {versions[tool]} | `{tool.api}` | {' | '.join(cells)} |")
    lines += [
        "",
        f"Streamed tokens per second of the client's processor time, all its processes together: {STREAM_AT_ONCE} "
        f"streams of {STREAM_LEN} tokens, {STREAM_AT_ONCE / STEADY[1][0]:,.0f} tokens/s in all, less the time for the "
        f"same requests with two tokens each. {_rounds()} (lowest to highest).",
        "",
        "| client | asks at | tokens per CPU second |",
        "|---|---|---|",
    ]
    for tool, rates in cost.items():
        spread = f"{median(rates):,.0f}" + (f" ({min(rates):,.0f} to {max(rates):,.0f})" if ROUNDS > 1 else "")
        lines.append(f"| {tool.name} {versions[tool]} | `{tool.api}` | {spread} |")
    return lines
