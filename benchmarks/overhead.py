"""quantbench's overhead over llm-compressor: time and memory compared with a script that calls its API directly.

The script loads, quantizes and saves a checkpoint; quantbench does the same as a step of a run. Neither includes the
proof. The two are interleaved.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.config.compose import compose_job
from bench.paths import cache_dir
from bench.plan.stages import plan
from quantize.calibration import calibration_samples
from quantize.step import Step

ROUNDS = 3
CALIBRATION = ("calibration=demo", "calibration.gptq.n_samples=8")
VARIANTS = {
    "rtn-int4": "",
    "fp8-static": "QuantizationModifier(targets='Linear', scheme='FP8', ignore=ignore)",
    "gptq-int8": (
        "GPTQModifier(config_groups={'group_0': QuantizationScheme(targets=['Linear'], weights=QuantizationArgs("
        "num_bits=8, type='int', symmetric=True, strategy='channel'))}, ignore=ignore, dampening_frac=0.01, "
        "actorder='static')"
    ),
}
BY_HAND = """
import json, sys, torch
source, target, samples, recipe = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3])), sys.argv[4]
ignore = ["lm_head", "re:.*mlp.gate$"]
if not recipe:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor import model_free_ptq
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    model_free_ptq(source, target, scheme=scheme, ignore=[*ignore, "re:.*embed_tokens$"])
else:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]
    oneshot(model=model, recipe=eval(recipe), dataset=Dataset.from_list(rows), num_calibration_samples=len(rows),
            max_seq_length=max(map(len, samples)), shuffle_calibration_samples=False)
    model.save_pretrained(target, save_compressed=True)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
"""


def _timed(argv: list[str]) -> tuple[float, int]:
    """Return (seconds, peak resident bytes) of a process."""
    begin = time.monotonic()
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        raise RuntimeError(f"{argv[:4]} ended with status {status}")
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def _row(quant: str, recipe: str, place: Path) -> str:
    from transformers import AutoTokenizer

    spec = compose_job(["+model=smollm2-135m", f"quant={quant}", *CALIBRATION, "session=bench"])
    source = plan(spec).source.target
    samples: list[list[int]] = []
    if recipe:
        config = spec.quant.method.calibration
        assert config is not None
        samples, _, _ = calibration_samples(config, 0, AutoTokenizer.from_pretrained(source))
    (place / "samples.json").write_text(json.dumps(samples))
    costs: dict[str, list[tuple[float, int]]] = {"ours": [], "by hand": []}
    for turn in range(ROUNDS):
        order = ("ours", "by hand") if turn % 2 == 0 else ("by hand", "ours")
        for who in order:
            target = place / f"{quant}-{who}-{turn}"
            if who == "ours":
                step = Step(
                    method=spec.quant.method.name, config=spec.quant.method.config.model_dump(mode="json"),
                    architecture=spec.model.architecture,
                    source=source, target=target, samples=tuple(map(tuple, samples)),
                )  # fmt: skip
                (place / "job.step").write_text(step.model_dump_json())
                argv = [sys.executable, "-m", "quantize.step", str(place / "job.step")]
            else:
                script = place / "by_hand.py"
                script.write_text(BY_HAND)
                argv = [sys.executable, str(script), str(source), str(target), str(place / "samples.json"), recipe]
            costs[who].append(_timed(argv))
    ratios = [
        median(ours[i] / hand[i] for ours, hand in zip(costs["ours"], costs["by hand"], strict=True)) for i in (0, 1)
    ]
    figures = [
        f"{median(t for t, _ in runs):.1f} s, {median(m for _, m in runs) / 1e9:.2f} GB" for runs in costs.values()
    ]
    return f"| {quant} | {figures[0]} | {figures[1]} | {ratios[0] - 1:+.1%} | {ratios[1] - 1:+.1%} |"


def run() -> str:
    """Run each variant, interleaved, and return a table."""
    command = ["+model=smollm2-135m", "workload=none", "accuracy=none"]
    with tempfile.TemporaryDirectory(dir=cache_dir()) as name:
        place = Path(name)
        subprocess.run([sys.executable, "-m", "bench.run", *command], cwd=place, check=True, capture_output=True)
        rows = [_row(quant, recipe, place) for quant, recipe in VARIANTS.items()]
    return "\n".join(
        [
            f"smollm2-135m, {' '.join(CALIBRATION)}, {ROUNDS} rounds in turns: medians, and of paired ratios.",
            "",
            "| scheme | quantbench | llm-compressor by hand | time | peak memory |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
