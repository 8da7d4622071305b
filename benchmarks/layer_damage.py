"""Whether the proof points at the layers that do the damage: its figures against a complete ablation.

The ablation puts one decoder layer of the source at a time into the checkpoint, as complete models of transformers,
and measures the KL divergence on all of the held-out text.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from scipy.stats import spearmanr

from bench.paths import cache_dir
from bench.records.record import RunRecord

MODEL = "smollm2-135m"
VARIANTS = ("gptq-int4", "rtn-int4", "awq-int4", "fp8")


def _record(folder: Path, quant: str) -> RunRecord:
    argv = [sys.executable, "-m", "bench.run", f"+model={MODEL}", f"quant={quant}", "workload=none", "accuracy=none"]
    subprocess.run([*argv, "calibration=demo", f"results_dir={quant}"], cwd=folder, check=True)
    (file,) = folder.glob(f"{quant}/runs/*/record.json")
    return RunRecord.model_validate_json(file.read_bytes())


def _folder(record: RunRecord) -> Path:
    assert record.checkpoint is not None
    (folder,) = (cache_dir() / "checkpoints").glob(f"{MODEL}-*-{record.checkpoint.key.digest[:12]}")
    return folder


def ablation(source: Path, folder: Path, windows: list[list[int]]) -> list[float]:
    """Return by how much the KL divergence falls with each decoder layer of the source in the checkpoint."""
    from transformers import AutoModelForCausalLM

    from quantize.expanded import Expanded

    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    candidate = Expanded(folder, device=torch.device("cpu")).whole()

    def divergence() -> float:
        total = 0.0
        for ids, p in zip(windows, expected, strict=True):
            q = candidate(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            total += float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum"))
        return total / sum(map(len, windows))

    with torch.inference_mode():
        expected = [reference(torch.tensor([ids])).logits[0].float().log_softmax(-1) for ids in windows]
        complete, falls = divergence(), []
        for number, own in enumerate(list(candidate.model.layers)):
            candidate.model.layers[number] = reference.model.layers[number]
            falls.append(complete - divergence())
            candidate.model.layers[number] = own
    return falls


def run() -> str:
    """Return the table."""
    from transformers import AutoTokenizer

    from quantize.calibration import heldout_windows
    from quantize.texts import HeldoutConfig

    rows = [
        "| checkpoint | KL | Spearman correlation over layers | worst 5 among the ablation's worst 8 | worst 8 |",
        "|---|---:|---:|---:|---|",
    ]
    with tempfile.TemporaryDirectory() as place:
        source = _folder(_record(Path(place), "bf16"))
        heldout = HeldoutConfig(set="embedded", n_samples=None, max_seq_len=256)
        windows = heldout_windows(heldout, AutoTokenizer.from_pretrained(source))
        for quant in VARIANTS:
            record = _record(Path(place), quant)
            assert record.checkpoint is not None
            assert record.checkpoint.fidelity is not None
            figures = [damage.kl_nats for damage in record.checkpoint.layer_damage]
            falls = ablation(source, _folder(record), windows)
            layers = range(len(falls))
            worst = sorted(layers, key=lambda layer: -falls[layer])[:8]
            found = sorted(layers, key=lambda layer: -figures[layer])[:5]
            correlation = float(spearmanr(figures, falls).statistic)
            rows.append(
                f"| {quant} | {record.checkpoint.fidelity.kl_nats:.4f} | {correlation:.2f} | "
                f"{len(set(found) & set(worst))} | {', '.join(map(str, worst))} |"
            )
    return "\n".join(rows)
