"""The compared clients: how each is run, and where it reports its measurements.

Each client sends N requests at once, with 64 prompt tokens and the same number of output tokens, and uses the server's
token counts where it can. TPOT is (last token − first token)/(tokens − 1), whatever a tool calls it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INPUT_LEN = 64
MODEL = "fake"


@dataclass(frozen=True)
class Job:
    """The task of one run of a tool."""

    url: str
    requests: int
    """Number of requests, sent at once."""
    output_len: int
    tokenizer: Path
    folder: Path
    """An empty working directory for the tool."""


Figures = tuple[float, float]
"""(median TTFT in ms, median TPOT in ms)"""


@dataclass(frozen=True)
class Tool:
    """One client."""

    name: str
    environment: str
    """Name of its interpreter; empty for the current one."""
    package: str
    api: str
    argv: Callable[[Job], list[str]]
    """Arguments of the interpreter; a first word without a leading dash is a program in the interpreter's folder."""
    read: Callable[[Job, str], Figures]
    """Returns its figures from its files and its standard output."""
    env: dict[str, str] = field(default_factory=dict, hash=False)


def _ours(protocol: str) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        numbers = map(str, (job.requests, INPUT_LEN, job.output_len))
        return ["-m", "benchmarks.peers.run_quantbench", job.url, protocol, *numbers]

    return argv


def _read_ours(job: Job, output: str) -> Figures:
    figures = json.loads(output)
    return figures["ttft_ms"], figures["tpot_ms"]


def _sglang(module: str, backend: str, *more: str) -> Callable[[Job], list[str]]:
    def argv(job: Job) -> list[str]:
        return [
            "-m", f"sglang.benchmark.{module}", "--backend", backend, "--base-url", job.url, "--model", MODEL,
            "--tokenizer", str(job.tokenizer), "--dataset-name", "random-ids", "--num-prompts", str(job.requests),
            "--random-input-len", str(INPUT_LEN), "--random-output-len", str(job.output_len),
            "--random-range-ratio", "1", "--max-concurrency", str(job.requests), "--warmup-requests", "0",
            "--disable-tqdm", "--output-file", "out.jsonl", *more,
        ]  # fmt: skip

    return argv


def _read_sglang(job: Job, output: str) -> Figures:
    figures = json.loads((job.folder / "out.jsonl").read_text())
    return figures["median_ttft_ms"], figures["median_tpot_ms"]


def _guidellm(job: Job) -> list[str]:
    return [
        "guidellm", "run", "--backend", f"kind=openai_http,target={job.url},model={MODEL}",
        "--profile", f"kind=concurrent,streams={job.requests}",
        "--constraint", f"kind=max_requests,count={job.requests}",
        "--data", f"kind=synthetic_text,prompt_tokens={INPUT_LEN},output_tokens={job.output_len}",
        "--tokenizer", f"kind=huggingface_auto,model={job.tokenizer}",
        "--output", "kind=json,path=out.json", "--disable-console",
    ]  # fmt: skip


def _read_guidellm(job: Job, output: str) -> Figures:
    metrics: dict[str, Any] = json.loads((job.folder / "out.json").read_text())["benchmarks"][0]["metrics"]
    names = ("time_to_first_token_ms", "inter_token_latency_ms")
    ttft, itl = (metrics[name]["successful"]["median"] for name in names)
    return ttft, itl


def _evalscope(job: Job) -> list[str]:
    return [
        "evalscope", "perf", "--url", f"{job.url}/v1/completions", "--api", "openai", "--model", MODEL,
        "--tokenizer-path", str(job.tokenizer), "--dataset", "random", "--tokenize-prompt",
        "--parallel", str(job.requests), "--number", str(job.requests),
        "--max-tokens", str(job.output_len), "--min-tokens", str(job.output_len),
        "--min-prompt-length", str(INPUT_LEN), "--max-prompt-length", str(INPUT_LEN), "--prefix-length", "0",
        "--extra-args", '{"ignore_eos": true}', "--outputs-dir", "out", "--no-timestamp", "--no-test-connection",
    ]  # fmt: skip


def _read_evalscope(job: Job, output: str) -> Figures:
    rows = json.loads(next((job.folder / "out").rglob("benchmark_percentile.json")).read_text())
    half = next(row for row in rows if row["Percentiles"] == "50%")
    return half["TTFT (ms)"], half["TPOT (ms)"]


def _aiperf(job: Job) -> list[str]:
    return [
        "aiperf", "profile", "--model", MODEL, "--endpoint-type", "chat", "--streaming", "--url", job.url,
        "--tokenizer", str(job.tokenizer), "--concurrency", str(job.requests), "--request-count", str(job.requests),
        "--prompt-input-tokens-mean", str(INPUT_LEN), "--prompt-output-tokens-mean", str(job.output_len),
        "--extra-inputs", "ignore_eos:true", f"min_tokens:{job.output_len}",
        "--use-server-token-count", "--per-chunk-usage", "--ui", "none", "--no-server-metrics", "--no-gpu-telemetry",
        "--output-artifact-dir", "out",
    ]  # fmt: skip


def _read_aiperf(job: Job, output: str) -> Figures:
    figures = json.loads((job.folder / "out" / "profile_export_aiperf.json").read_text())
    return figures["time_to_first_token"]["p50"], figures["inter_token_latency"]["p50"]


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
ROOT = Path(__file__).resolve().parent.parent.parent
# SGLang requires CUDA; with these variables it can be imported without it.
SGLANG = {
    **OFFLINE,
    "SGLANG_USE_CPU_ENGINE": "1",
    "PYTHONPATH": str(ROOT / "bench" / "toolchains" / "sglang-cpu"),
    "PYTHONWARNINGS": "ignore",
}
OURS = {"PYTHONPATH": str(ROOT)}
COMPLETIONS, CHAT, NATIVE = "/v1/completions", "/v1/chat/completions", "/generate"

TOOLS = (
    Tool("quantbench", "", "quantbench", COMPLETIONS, _ours("openai"), _read_ours, OURS),
    Tool("quantbench", "", "quantbench", NATIVE, _ours("sglang"), _read_ours, OURS),
    Tool(
        "sglang, Rust client", "sglang", "sglang", COMPLETIONS, _sglang("rust_client", "sglang-oai"), _read_sglang,
        SGLANG,
    ),
    Tool("sglang, Rust client", "sglang", "sglang", NATIVE, _sglang("rust_client", "sglang"), _read_sglang, SGLANG),
    Tool("sglang", "sglang", "sglang", COMPLETIONS, _sglang("serving", "sglang-oai"), _read_sglang, SGLANG),
    Tool(
        "sglang", "sglang", "sglang", NATIVE, _sglang("serving", "sglang", "--tokenize-prompt"), _read_sglang, SGLANG
    ),
    Tool("guidellm", "guidellm", "guidellm", CHAT, _guidellm, _read_guidellm, OFFLINE),
    Tool("evalscope", "evalscope", "evalscope", COMPLETIONS, _evalscope, _read_evalscope, OFFLINE),
    # When offline it does not accept a folder as its tokenizer.
    Tool("aiperf", "aiperf", "aiperf", CHAT, _aiperf, _read_aiperf),
)  # fmt: skip


def command(tool: Tool, python: str, job: Job) -> list[str]:
    """Return the complete command line of a run."""
    first, *rest = tool.argv(job)
    return [python, first, *rest] if first.startswith("-") else [str(Path(python).with_name(first)), *rest]


def environment(tool: Tool) -> dict[str, str]:
    """Return the environment variables of a run."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **tool.env}
