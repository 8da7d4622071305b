"""Every scheme on a real model: distance from BF16, size, time and memory, compared with round-to-nearest.

Calibration text and held-out text are C4 and WikiText-2 from the hub or a mirror, or the files in
``QUANTBENCH_BENCH_CALIBRATION`` and ``QUANTBENCH_BENCH_HELDOUT``.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.records.record import RunRecord
from bench.toolchains.toolchain import read, state

MODEL = "smollm2-135m"
CALIBRATION = {"gptq": (64, 512), "awq": (16, 256), "autoround": (16, 256), "other": (64, 512)}
ITERS = 20
"""AutoRound's steps, few enough for a CPU."""
HELDOUT = (24, 512)
VARIANTS = (
    "bf16", "rtn-int8", "gptq-int8", "int8-w8a8", "fp8", "fp8-static", "nvfp4", "mxfp4", "rtn-int4", "gptq-int4",
    "awq-int4", "awq-int4-sym", "autoround-int4",
)  # fmt: skip
FOREIGN = (
    ("gptq-int4", "gptqmodel"), ("gptq-int4", "auto-gptq"), ("awq-int4", "autoawq"), ("awq-int4", "gptqmodel"),
)  # fmt: skip
"""Variants that other backends produce too, if their toolchain is built."""


def settings() -> list[str]:
    """Return the overrides that all variants share."""
    chosen = [
        f"+model={MODEL}", "workload=none", "accuracy=none",
        f"calibration.set={os.environ.get('QUANTBENCH_BENCH_CALIBRATION', 'c4')}",
        f"calibration.heldout.set={os.environ.get('QUANTBENCH_BENCH_HELDOUT', 'wikitext')}",
        f"calibration.heldout.n_samples={HELDOUT[0]}", f"calibration.heldout.max_seq_len={HELDOUT[1]}",
        f"calibration.autoround.iters={ITERS}",
    ]  # fmt: skip
    for name, (samples, length) in CALIBRATION.items():
        chosen += [f"calibration.{name}.n_samples={samples}", f"calibration.{name}.max_seq_len={length}"]
    return chosen


def _run(folder: Path, *arguments: str) -> None:
    argv = [sys.executable, "-m", "bench.run", *arguments, *settings()]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)


def _row(record: RunRecord) -> str:
    name = record.variant.quant.partition("[")[0]
    backend = record.spec.quant.config.get("backend", "llmcompressor")
    name += f" by {backend}" if backend != "llmcompressor" else ""
    checkpoint = record.checkpoint
    if checkpoint is None:
        reason = record.failures[0].message.partition(" (log:")[0] if record.failures else "not made"
        return f"| {name} | {reason} | | | | | | |"
    size, time = f"{checkpoint.checkpoint_bytes / 1e6:.0f} MB", f"{checkpoint.build_s:.0f} s"
    fidelity = checkpoint.fidelity
    if fidelity is None:
        return f"| {name} | 0 | | | 16 | {size} | {time} | |"
    return (
        f"| {name} | {fidelity.kl_nats:.4f} | {fidelity.perplexity:.2f} | {fidelity.top1_agreement:.1%} | "
        f"{checkpoint.bits_per_quantized_weight:.2f} | {size} | {time} | {checkpoint.peak_rss_bytes / 1e9:.2f} GB |"
    )


def _orders(kl: dict[str, float], perplexity: dict[str, float]) -> list[str]:
    """Return the statements that must hold, and whether each does."""
    pairs = [("gptq-int8", "fp8", 1), *(("fp8", name, 3) for name in ("gptq-int4", "awq-int4", "rtn-int4"))]
    lines = []
    for low, high, times in pairs:
        if low in kl and high in kl:
            factor = f"{times} x " if times > 1 else ""
            lines.append((f"KL: {factor}{low} < {high}", times * kl[low] < kl[high]))
    for name in ("gptq-int4", "awq-int4", "awq-int4-sym", "autoround-int4"):
        if name in kl and "rtn-int4" in kl:
            lines.append((f"KL: {name} < rtn-int4", kl[name] < kl["rtn-int4"]))
            lines.append((f"perplexity: {name} < rtn-int4", perplexity[name] < perplexity["rtn-int4"]))
    return [f"- {claim}: {'yes' if holds else 'NO'}" for claim, holds in lines]


def table(records: Sequence[RunRecord]) -> str:
    """Return the table of all variants, with the statements that must hold."""
    own = {
        record.variant.quant.partition("[")[0]: record.checkpoint.fidelity
        for record in reversed(records)
        if record.checkpoint and record.checkpoint.fidelity
    }
    kl = {name: fidelity.kl_nats for name, fidelity in own.items()}
    perplexity = {name: fidelity.perplexity for name, fidelity in own.items()}
    source = next(iter(own.values())).source_perplexity
    chosen = dict(text.split("=", 1) for text in settings())
    texts = [Path(chosen[name]).name for name in ("calibration.set", "calibration.heldout.set")]
    counts = ", ".join(f"{name} {samples} x {length}" for name, (samples, length) in CALIBRATION.items())
    lines = [
        f"{MODEL} (BF16 perplexity {source:.2f}); calibration on {texts[0]} ({counts} tokens; AutoRound {ITERS} "
        f"iterations), fidelity on {texts[1]}, {HELDOUT[0]} x {HELDOUT[1]} tokens. Time and peak memory are those of "
        "making the weights, without the proof.",
        "",
        "| scheme | KL to BF16 | perplexity | top-1 agreement | bits/weight | checkpoint | time | peak memory |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, records),
        "",
        *_orders(kl, perplexity),
    ]
    return "\n".join(lines)


def run() -> str:
    """Build every variant and return a table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _run(folder, "-m", f"quant={','.join(VARIANTS)}")
        for quant, backend in FOREIGN:
            if state(read(backend)).kind == "built":
                _run(folder, f"quant={quant}", f"quant.backend={backend}")
        files = sorted(folder.glob("results/runs/*/record.json"))
        return table([RunRecord.model_validate_json(file.read_bytes()) for file in files])
