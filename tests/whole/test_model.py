"""The embedded real model: its answers, and the effect of each quantization."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.engines import engine as engine_named
from bench.records.record import RunRecord
from bench.servers.lifecycle import serve
from quantize.checkpoint import Checkpoint, read_manifest
from tests.support.program import EVERY, Cli
from tests.support.runs import checkpoint_of

pytestmark = pytest.mark.long
FEW = ["calibration.heldout.n_samples=4"]
SHORT = ["experiment=demo", "workload=none", "accuracy=none"]
QUANTS = ["bf16", "fp8", *(["rtn-int4"] if EVERY else [])]
"""Other tests build the other variants from small models, and make demo builds all core variants."""


@pytest.fixture(scope="module")
def variants(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    """Build variants with a very small amount of text."""
    pytest.importorskip("llmcompressor")
    cli = Cli(cache, tmp_path_factory.mktemp("model"))
    done: subprocess.CompletedProcess[str] = cli(
        "-m", "+model=smollm2-135m", f"quant={','.join(QUANTS)}", *SHORT, *FEW, timeout=900
    )
    assert done.returncode == 0, done.stderr
    records = [
        RunRecord.model_validate_json(file.read_bytes()) for file in cli.folder.glob("results/runs/*/record.json")
    ]
    return {record.variant.quant.partition("[")[0]: record for record in records}


@pytest.mark.timeout(900)
def test_eight_bits_are_close_to_the_source_and_far_closer_than_four(variants: dict[str, RunRecord]) -> None:
    fidelity = {quant: variants[quant].checkpoint.fidelity for quant in QUANTS if quant != "bf16"}
    assert fidelity["fp8"].kl_nats < 0.06
    if EVERY:
        assert 2 * fidelity["fp8"].kl_nats < fidelity["rtn-int4"].kl_nats
        assert fidelity["fp8"].top1_agreement > fidelity["rtn-int4"].top1_agreement


@pytest.mark.timeout(900)
def test_every_checkpoint_follows_its_scheme(variants: dict[str, RunRecord]) -> None:
    checkpoints = {quant: variants[quant].checkpoint for quant in QUANTS}
    assert checkpoints["bf16"].tensors_by_dtype == {"BF16": 272}
    assert checkpoints["fp8"].tensors_by_dtype["F8_E4M3"] == 210
    bits = {quant: checkpoints[quant].bits_per_quantized_weight for quant in QUANTS if quant != "bf16"}
    assert 8 < bits["fp8"] < 8.1
    for quant in QUANTS:
        assert "not the original BF16 release" in checkpoints[quant].provenance
    if EVERY:
        assert 4.25 <= bits["rtn-int4"] < 4.26
        assert any("group size 64 instead of group size 128" in note for note in checkpoints["rtn-int4"].notes)


@pytest.mark.timeout(900)
def test_the_bf16_server_knows_the_capital_of_france(
    variants: dict[str, RunRecord], cache: Path, tmp_path: Path
) -> None:
    import aiohttp
    from tokenizers import Tokenizer

    folder = checkpoint_of(cache, variants["bf16"])
    checkpoint = Checkpoint(path=folder, manifest=read_manifest(folder), reused=True, reason="test")
    config = {
        "device": "cpu",
        "dtype": "auto",
        "kv_cache_dtype": "auto",
        "max_running_requests": 2,
        "startup_timeout_s": 120,
        "request_timeout_s": 60,
        "first_token_timeout_s": 60,
        "stall_timeout_s": 60,
    }
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(question, add_special_tokens=False).ids

    async def ask(url: str) -> dict[str, object]:
        body = {"input_ids": ids, "sampling_params": {"max_new_tokens": 24, "temperature": 0}}
        async with aiohttp.ClientSession() as session, session.post(f"{url}/generate", json=body) as answer:
            return json.loads(await answer.text())

    engine = engine_named("transformers", config)
    with serve(
        engine, checkpoint, context_length=8192, what="test", log_file=tmp_path / "log", on_wait=lambda: None
    ) as running:
        answer = asyncio.run(ask(running.base_url))
    assert "Paris" in answer["text"]
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"


@pytest.mark.timeout(900)
def test_emulated_fp8_rounds_activations_too(variants: dict[str, RunRecord], cache: Path) -> None:
    """Without rounded activations every W8A8 score would be too good."""
    script = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
layer = model.model.layers[3].mlp.down_proj
x = torch.randn(32, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
with torch.inference_mode():
    model(torch.tensor([[1, 2, 3]]))
    y = layer(x).float()
plain = x.float() @ layer.weight.float().T
print(float((y - plain).norm() / plain.norm()))
"""
    folder = checkpoint_of(cache, variants["fp8"])
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.01 < float(done.stdout.splitlines()[-1]) < 0.06
