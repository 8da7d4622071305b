"""The served model compared with ``lm_eval --model hf``: items per second, and agreement, on the same items.

Two parts use MMLU from a local hub mirror (``QUANTBENCH_HUB``), or else quantbench's own small set:

- speed: five examples before each item, some items of a few subjects; lm_eval's best of several batch sizes counts;
- agreement: no examples, many items, compared with lm_eval at batch size 1 and at a second batch size: the difference
  between lm_eval's own two results is what quantbench may differ by.

A third part measures tokens per second of IFEval-like answers, one at a time and 16 at once. All compute in the
server's type: BF16 if the CPU has instructions for it, otherwise float32. ``QUANTBENCH_BENCH_ITEMS`` sets the items per
subject for (speed, agreement), as in ``12,36``.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.accuracy.tasks import environment
from bench.records.record import RunRecord, TaskScore
from quantize.bf16 import has_bf16

SUBJECTS = ("mmlu_abstract_algebra", "mmlu_global_facts", "mmlu_sociology")
"""Subjects of the speed part, with short, medium and long prompts."""
BATCHES = (1, 4, 8)
ITEMS = (12, 18)
PEER = """
import json, sys, time
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from bench.accuracy.tasks import MINI_DIR
model, dtype, (tasks, batch, shots, limit) = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
lm = HFLM(pretrained=model, dtype=dtype, batch_size=batch, device="cpu")
begin = time.monotonic()
results = simple_evaluate(
    model=lm, tasks=tasks, task_manager=TaskManager(include_path=str(MINI_DIR)), num_fewshot=shots, limit=limit,
    bootstrap_iters=0,
)
seconds = time.monotonic() - begin
rows = {
    f"{task}/{sample['doc_id']}": [response[0] for response in sample["filtered_resps"]]
    for task, samples in results["samples"].items() for sample in samples
}
print(json.dumps([seconds, rows]))
"""

Scores = dict[str, list[float]]
"""Log-probabilities of the choices, by item."""


def _pick(scores: list[float]) -> int:
    return scores.index(max(scores))


def _peer(checkpoint: Path, tasks: tuple[str, ...], batch: int, shots: int, limit: int) -> tuple[float, Scores]:
    """Return the seconds of ``lm_eval --model hf``, without loading the model, and its scores."""
    hub = os.environ.get("QUANTBENCH_HUB")
    argv = [sys.executable, "-c", PEER, str(checkpoint), _dtype(), json.dumps([tasks, batch, shots, limit])]
    env = {**os.environ, **environment(Path(hub) if hub else None, None), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=hub)
    if done.returncode:
        raise RuntimeError(f"lm_eval failed: {done.stderr[-2000:]}")
    seconds, rows = json.loads(done.stdout.splitlines()[-1])
    return seconds, rows


def _dtype() -> str:
    return "bfloat16" if has_bf16() else "float32"


def _ours(folder: Path, name: str, *overrides: str) -> RunRecord:
    work = folder / name
    work.mkdir()
    command = ["+model=smollm2-135m", "workload=none", *overrides]
    done = subprocess.run([sys.executable, "-m", "bench.run", *command], cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"quantbench failed: {done.stderr[-2000:]}")
    (file,) = work.glob("results/runs/*/record.json")
    return RunRecord.model_validate_json(file.read_bytes())


def _scores(record: RunRecord) -> Scores:
    return {f"{item.task}/{item.doc_id}": list(item.logprobs) for score in record.scores for item in score.items}


def _checkpoint(record: RunRecord) -> Path:
    from bench.paths import cache_dir

    assert record.checkpoint is not None
    return cache_dir() / "checkpoints" / f"smollm2-135m-bf16-{record.checkpoint.key.digest[:12]}"


def _difference(scores: Scores, reference: Scores) -> str:
    differ = sum(_pick(scores[item]) != _pick(reference[item]) for item in reference)
    largest = max(abs(a - b) for item in reference for a, b in zip(scores[item], reference[item], strict=True))
    return f"{differ} of {len(reference)} | {largest:.5f}"


def _on_choices(folder: Path, items: tuple[int, int]) -> list[str]:
    """Measure speed with five examples and agreement without."""
    has_hub = "QUANTBENCH_HUB" in os.environ
    fast, many = (SUBJECTS, ("mmlu",)) if has_hub else (("mini-mmlu",), ("mini-mmlu", "mini-ceval"))
    shots = 5 if has_hub else 0
    lines = [f"Speed: {', '.join(fast)}, {shots} examples, {items[0]} items each; {_dtype()}", ""]
    lines += ["| | items/s | picks that differ from batch 1 | largest difference, nats |", "|---|---|---|---|"]
    record = _ours(folder, "speed", *_accuracy(has_hub), *_limits(fast, items[0], shots))
    checkpoint = _checkpoint(record)
    peers = {batch: _peer(checkpoint, fast, batch, shots, items[0]) for batch in BATCHES}
    own_scores = _scores(record)
    seconds = sum(score.duration_s for score in record.scores)
    rates = {batch: len(rows) / elapsed_s for batch, (elapsed_s, rows) in peers.items()}
    best = max(rates.values())
    lines.append(f"| quantbench, served | {len(own_scores) / seconds:.2f} | {_difference(own_scores, peers[1][1])} |")
    for batch, (_, rows) in peers.items():
        lines.append(f"| lm_eval --model hf, batch {batch} | {rates[batch]:.2f} | {_difference(rows, peers[1][1])} |")
    lines += [
        "",
        f"{len(own_scores) / seconds / best:.1f} times lm_eval's best, data and prompts included on both sides.",
        "",
    ]

    record = _ours(folder, "agreement", *_accuracy(has_hub), *_limits(many, items[1], 0))
    alone, together = (_peer(checkpoint, many, batch, 0, items[1])[1] for batch in (1, 4))
    lines += [f"Agreement: {', '.join(many)}, no examples, {items[1]} items a subject; {_dtype()}", ""]
    lines += ["| | picks that differ from batch 1 | largest difference, nats |", "|---|---|---|"]
    lines.append(f"| quantbench, served | {_difference(_scores(record), alone)} |")
    lines.append(f"| lm_eval --model hf, batch 4 | {_difference(together, alone)} |")
    return lines


def _limits(tasks: tuple[str, ...], items: int, shots: int) -> list[str]:
    return [
        f"accuracy.tasks=[{','.join(tasks)}]",
        f"accuracy.limit={items}",
        "accuracy.at_least=1",
        f"accuracy.num_fewshot={shots}",
        "accuracy.chat_template=[]",
    ]


def _accuracy(has_hub: bool) -> list[str]:
    return ["accuracy=full"] if has_hub else ["accuracy=demo"]


def _on_text(folder: Path) -> list[str]:
    """Measure generated tokens per second, one answer at a time and 16 at once."""
    task = "ifeval" if "QUANTBENCH_HUB" in os.environ else "mini-ifeval"
    rates = {}
    for concurrency in (1, 16):
        record = _ours(
            folder,
            f"text{concurrency}",
            *_accuracy(task == "ifeval"),
            f"accuracy.tasks=[{task}]",
            f"accuracy.limit={16 if concurrency == 1 else 32}",
            "accuracy.at_least=1",
            "accuracy.max_gen_toks=128",
            f"accuracy.concurrency={concurrency}",
        )
        rates[concurrency] = _rate(record.scores[0])
    lines = [f"Generation: {task}, up to 128 tokens each", "", "| requests under way | tokens/s |", "|---|---|"]
    lines += [f"| {concurrency} | {rate:.1f} |" for concurrency, rate in rates.items()]
    return [*lines, "", f"{rates[16] / rates[1]:.1f} times as many together."]


def _rate(score: TaskScore) -> float:
    assert score.work is not None
    assert score.work.output_tokens is not None
    return score.work.output_tokens / score.work.duration_s


def run() -> str:
    """Run all parts and return their tables."""
    begin = time.monotonic()
    setting: Any = os.environ.get("QUANTBENCH_BENCH_ITEMS")
    items = tuple(map(int, setting.split(","))) if setting else ITEMS
    with tempfile.TemporaryDirectory() as folder:
        lines = [*_on_choices(Path(folder), (items[0], items[1])), "", *_on_text(Path(folder))]
    return "\n".join([*lines, "", f"smollm2-135m, {time.monotonic() - begin:.0f} s in all"])
