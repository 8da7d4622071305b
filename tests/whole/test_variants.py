"""Every variant of a dense model and of one with experts is built, verified, read back and served; and releases."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config.compose import compose_job, names
from bench.records.record import RunRecord
from quantize.checkpoint import CheckpointError, Manifest
from quantize.method import Expected
from quantize.proof import expected_of_release, prove
from quantize.reader import Reader
from quantize.scheme import modelopt_form
from tests.support.damage import FAULTS, Damaged, fits, scaled
from tests.support.native import write_modelopt, write_release
from tests.support.paths import ROOT
from tests.support.program import EVERY, Cli
from tests.support.runs import checkpoint_of

pytest.importorskip("llmcompressor")
from quantize.weights import prove_weights

pytestmark = [pytest.mark.long, pytest.mark.timeout(1600)]
VARIANTS = names("quant") if EVERY else ["bf16", "fp8-block", "gptq-int4", "nvfp4"]
"""Variants of a dense model: those that no other test builds, or all of them."""
WITH_EXPERTS = VARIANTS if EVERY else ["awq-int4", "bf16"]
"""AWQ is built here only."""
ONE_CELL = ["workload.input_lens=16", "workload.output_len=4", "workload.trials=1", "accuracy=none"]
COMPARE = """
import json, sys, torch
from transformers import AutoModelForCausalLM
from quantize.expanded import Expanded
from pathlib import Path
ids = torch.randint(300, 2000, (1, 64), generator=torch.Generator().manual_seed(1))
found = {}
for folder in sys.argv[1:]:
    ours = Expanded(Path(folder)).whole()
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        found[folder] = float((ours(ids).logits - theirs(ids).logits).abs().max())
print(json.dumps(found))
"""


def run_all(cli: Cli, model: str, quants: list[str]) -> dict[str, RunRecord]:
    command = ["-m", f"+model={model}", f"quant={','.join(quants)}", "calibration=demo", *ONE_CELL]
    done = cli(*command, timeout=1500, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [RunRecord.model_validate_json(file.read_bytes()) for file in cli.folder.glob("results/runs/*/record.json")]
    return {record.variant.quant.partition("[")[0]: record for record in found}


@pytest.fixture(scope="module")
def dense(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    return run_all(Cli(cache, tmp_path_factory.mktemp("dense")), "tiny-qwen3", VARIANTS)


@pytest.fixture(scope="module")
def experts(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    return run_all(Cli(cache, tmp_path_factory.mktemp("experts")), "tiny-qwen3-moe", WITH_EXPERTS)


def check_all(records: dict[str, RunRecord], blocks: int) -> None:
    for quant, record in records.items():
        assert [cell.status for cell in record.cells] == ["ok" if quant == "bf16" else "emulated"], quant
        checkpoint = record.checkpoint
        assert checkpoint is not None
        if quant == "bf16":
            continue
        assert checkpoint.fidelity is not None
        assert checkpoint.fidelity.kl_nats < 0.01
        assert checkpoint.canaries is not None
        assert checkpoint.canaries.checkpoint.entropy_nats == pytest.approx(
            checkpoint.canaries.source.entropy_nats, rel=0.02
        )
        bits = checkpoint.bits_per_quantized_weight
        assert bits is not None
        assert (8 <= bits < 8.6) if checkpoint.format and checkpoint.format[:6].find("8") > 0 else (4 < bits < 4.6), (
            quant
        )
        assert len(checkpoint.layer_errors) == blocks
        worst = max(error.relative_error for error in checkpoint.layer_errors)
        assert 0.001 < worst < 0.4, quant


def test_every_variant_of_a_dense_model(dense: dict[str, RunRecord]) -> None:
    assert sorted(dense) == VARIANTS
    check_all(dense, blocks=2 * 7)
    kl = {quant: record.checkpoint.fidelity.kl_nats for quant, record in dense.items() if quant != "bf16"}
    eight = [quant for quant in kl if dense[quant].checkpoint.bits_per_quantized_weight > 6]
    assert max(kl[quant] for quant in eight) < min(kl[quant] for quant in kl if quant not in eight)
    assert kl["fp8-block"] < kl["gptq-int4"] < kl["nvfp4"]
    if EVERY:
        assert kl["rtn-int8"] < kl["fp8"]


def test_every_variant_of_a_model_with_experts(experts: dict[str, RunRecord]) -> None:
    assert sorted(experts) == sorted(WITH_EXPERTS)
    check_all(experts, blocks=2 * 5)
    for quant, record in experts.items():
        checkpoint = record.checkpoint
        assert checkpoint is not None
        assert (checkpoint.experts_reached is not None) == (checkpoint.calibration is not None), quant
        if checkpoint.experts_reached is not None:
            assert 0.5 < checkpoint.experts_reached <= 1
    assert "symmetric instead of asymmetric" in experts["awq-int4"].checkpoint.notes[0]


def test_the_weights_read_back_equal_those_of_transformers(dense: dict[str, RunRecord], cache: Path) -> None:
    """Bit for bit, for every container that transformers loads on a CPU; for experts see decision 7."""
    folders = [
        str(checkpoint_of(cache, record))
        for record in dense.values()
        if record.checkpoint.quantization_config is None
        or record.checkpoint.quantization_config["quant_method"] == "compressed-tensors"
    ]
    assert len(folders) == len(VARIANTS) - 1
    done = subprocess.run([sys.executable, "-c", COMPARE, *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(done.stdout.splitlines()[-1]).values()) == {0.0}


def test_published_releases_are_verified_and_served_unchanged(
    dense: dict[str, RunRecord], cache: Path, tmp_path: Path, cli: Cli
) -> None:
    source = checkpoint_of(cache, dense["bf16"])
    write_release(source, tmp_path / "gptq", "gptq", group=32)
    write_release(source, tmp_path / "gptq8", "gptq", bits=8)
    write_release(source, tmp_path / "awq", "awq", group=32)
    releases = {
        "gptq-int4": (tmp_path / "gptq", "int4, scales per 32 columns, symmetric, container gptq"),
        "gptq-int8": (tmp_path / "gptq8", "int8, scales per 64 columns, symmetric, container gptq"),
        "awq-int4": (tmp_path / "awq", "int4, scales per 32 columns, asymmetric, container awq"),
        "fp8-block": (checkpoint_of(cache, dense["fp8-block"]), dense["fp8-block"].checkpoint.format),
        "nvfp4": (tmp_path / "mixed", f"{modelopt_form('NVFP4', 16)} and {modelopt_form('FP8', None)}"),
    }
    write_modelopt(source, tmp_path / "mixed", {"q_proj": "FP8", "k_proj": "FP8", "v_proj": "FP8", "mlp": "NVFP4"})
    for quant in releases if EVERY else ("gptq-int4", "awq-int4", "nvfp4"):
        folder, form = releases[quant]
        done = cli("+model=tiny-qwen3", f"quant={quant}", f"quant.source={folder}", *ONE_CELL)
        assert done.returncode == 0, done.stderr
        made = newest(cli)
        assert made.checkpoint.format == form
        assert 0 < made.checkpoint.fidelity.kl_nats < 0.01
        assert made.checkpoint.notes[0].startswith("taken as released, not quantized here")
        assert [cell.status for cell in made.cells] == ["emulated"]


def newest(cli: Cli) -> RunRecord:
    file = max(cli.folder.glob("results/runs/*/record.json"), key=lambda file: file.stat().st_mtime_ns)
    return RunRecord.model_validate_json(file.read_bytes())


def test_a_release_of_another_kind_or_of_another_model_is_refused(
    dense: dict[str, RunRecord], cache: Path, cli: Cli
) -> None:
    folder = checkpoint_of(cache, dense["gptq-int4"])
    done = cli("+model=tiny-qwen3", "quant=fp8", f"quant.source={folder}", *ONE_CELL)
    assert done.returncode == 1
    assert "not of the requested kind: float8" in done.stderr
    wide = cli("+model=tiny-qwen3-moe", "quant=gptq-int4", f"quant.source={folder}", *ONE_CELL)
    assert wide.returncode == 1
    assert "is missing" in wide.stderr
    assert "Traceback" not in done.stderr + wide.stderr


def test_keys_and_values_may_be_kept_in_fp8(dense: dict[str, RunRecord], cli: Cli) -> None:
    done = cli("+model=tiny-qwen3", "quant=bf16", "+kv_cache=fp8", *ONE_CELL)
    assert done.returncode == 0, done.stderr
    record = newest(cli)
    assert record.variant.quant == "bf16[kv_cache=fp8]"
    assert record.engine_info.kv_cache_dtype == "fp8_e4m3"
    assert [cell.status for cell in record.cells] == ["emulated"]


def expected_form(model: str, quant: str) -> Expected:
    spec = compose_job([f"+model={model}", f"quant={quant}", "calibration=demo"])
    return spec.quant.method.expected(spec.model.architecture)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_a_checkpoint_is_refused(
    fault: str, dense: dict[str, RunRecord], experts: dict[str, RunRecord], cache: Path, tmp_path: Path
) -> None:
    checkpoints = [
        (checkpoint_of(cache, records["bf16"]), checkpoint_of(cache, record), expected_form(model, quant))
        for model, records in (("tiny-qwen3", dense), ("tiny-qwen3-moe", experts))
        for quant, record in records.items()
        if quant != "bf16"
    ]
    source = checkpoint_of(cache, dense["bf16"])
    for container in ("awq", "gptq"):
        release = tmp_path / container
        write_release(source, release, container, group=32)
        form = expected_of_release(Reader(release), expected_form("tiny-qwen3", f"{container}-int4"), container)
        checkpoints.append((source, release, form))
    injected = 0
    for number, (original, written, form) in enumerate(checkpoints):
        damaged = Damaged.of(written, tmp_path / f"damaged-{number}")
        if fits(fault, damaged):
            prove_all(Reader(original), Reader(written), form)
            FAULTS[fault](damaged)
            with contextlib.suppress(CheckpointError):
                notes = prove_all(Reader(original), damaged.write(), form)
                # Wide groups of random weights have scales that differ by a tenth; those of real models by a third.
                assert fault == "transposed groups", written
                assert notes, written
            injected += 1
    assert injected


def test_scales_that_are_a_tenth_too_large_are_refused_or_noted(
    dense: dict[str, RunRecord], cache: Path, tmp_path: Path
) -> None:
    source = Reader(checkpoint_of(cache, dense["bf16"]))
    damaged = Damaged.of(checkpoint_of(cache, dense["gptq-int4"]), tmp_path / "damaged")
    scaled(1.1)(damaged)
    (note,) = prove_all(source, damaged.write(), expected_form("tiny-qwen3", "gptq-int4"))
    assert "scales of 1 of 14 matrices are suspicious" in note


def prove_all(source: Reader, written: Reader, expected: Expected) -> tuple[str, ...]:
    prove(source, written, expected)
    return prove_weights(source, written, expected)


def test_manifests_are_read_back_as_they_were_written(dense: dict[str, RunRecord]) -> None:
    for record in dense.values():
        assert Manifest.model_validate_json(record.checkpoint.model_dump_json()) == record.checkpoint
