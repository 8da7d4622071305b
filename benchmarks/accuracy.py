"""Items per second and agreement: our served model beside ``lm_eval --model hf``, same checkpoint, same items."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import RunRecord

TASKS = ("mini-mmlu", "mini-ceval")
PEER = """
import json, sys, time
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from bench.accuracy.tasks import MINI_DIR
model, tasks, batch = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
lm = HFLM(pretrained=model, dtype="bfloat16", batch_size=batch, device="cpu")
manager = TaskManager(include_path=str(MINI_DIR))
begin = time.monotonic()
found = simple_evaluate(model=lm, tasks=tasks, task_manager=manager, bootstrap_iters=0)
seconds = time.monotonic() - begin
picks = {}
for task, samples in found["samples"].items():
    for sample in samples:
        scores = [response[0] for response in sample["filtered_resps"]]
        picks[f"{task}/{sample['doc_id']}"] = scores.index(max(scores))
print(json.dumps([seconds, picks]))
"""


def _peer(checkpoint: Path, batch: int) -> tuple[float, dict[str, int]]:
    argv = [sys.executable, "-c", PEER, str(checkpoint), json.dumps(TASKS), str(batch)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    seconds, picks = json.loads(done.stdout.splitlines()[-1])
    return seconds, picks


def _ours(folder: Path) -> tuple[float, dict[str, int], Path]:
    from bench.paths import cache_dir

    command = ["+model=smollm2-135m", "workload=none", f"accuracy.tasks=[{','.join(TASKS)}]"]
    subprocess.run([sys.executable, "-m", "bench.run", *command], cwd=folder, check=True, capture_output=True)
    (file,) = folder.glob("results/runs/*/record.json")
    record = RunRecord.model_validate_json(file.read_bytes())
    picks = {f"{item.task}/{item.doc_id}": int(item.answer) for score in record.scores for item in score.items}
    assert record.checkpoint is not None
    digest = record.checkpoint.key.digest[:12]
    return (
        sum(score.seconds for score in record.scores),
        picks,
        cache_dir() / "checkpoints" / f"smollm2-135m-bf16-{digest}",
    )


def run() -> str:
    """Run both and return a table."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seconds, picks, checkpoint = _ours(Path(folder))
    rows = [("quantbench, served, concurrency 16", seconds, picks)]
    rows += [(f"lm_eval --model hf, batch {batch}", *_peer(checkpoint, batch)) for batch in (1, 8)]
    reference = rows[1][2]
    lines = ["| | items/s | picks that differ from lm_eval batch 1 |", "|---|---|---|"]
    for name, took, found in rows:
        differ = sum(found[item] != reference[item] for item in reference)
        lines.append(f"| {name} | {len(found) / took:.2f} | {differ} of {len(reference)} |")
    tasks = " + ".join(TASKS)
    return "\n".join([f"smollm2-135m, BF16, {tasks}, {time.monotonic() - begin:.0f} s in all", "", *lines])
