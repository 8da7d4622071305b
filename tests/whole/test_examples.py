"""The examples of the pages on adding plug-ins work when they are copied into the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import psutil
import pytest

from bench.config.compose import compose_job
from bench.records.record import RunRecord
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
KINDS = ("engine", "quantization", "section", "source")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with the files of all examples in it."""
    copy = tmp_path_factory.mktemp("repository")
    for folder in ("bench", "quantize", "configs", "results/published"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for kind in KINDS:
        shutil.copytree(EXAMPLES / kind, copy, dirs_exist_ok=True)
    return copy


def run(repository: Path, cache: Path, *typed: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "QUANTBENCH_CACHE": str(cache), "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "bench.run", *typed, "accuracy=none", "workload.trials=2", "workload.output_len=8"]
    return subprocess.run(argv, cwd=repository, env=env, capture_output=True, text=True, timeout=280)


def record_of(repository: Path, variant: str) -> RunRecord:
    [file] = repository.glob(f"results/runs/*{variant}*/record.json")
    return RunRecord.model_validate_json(file.read_bytes())


def test_the_example_engine_measures_a_model(repository: Path, cache: Path) -> None:
    pytest.importorskip("transformers")
    shapes = ("workload.input_lens=[1,64]", "workload.concurrency=2")
    done = run(repository, cache, "+model=tiny-qwen3", "engine=toy", "quant=bf16", *shapes)
    assert done.returncode == 0, done.stderr
    record = record_of(repository, "tiny-qwen3-bf16")
    assert [(cell.input_len, cell.status, cell.reasons) for cell in record.cells] == [(1, "ok", ()), (64, "ok", ())]
    for cell in record.cells:
        assert {request.completion_tokens for trial in cell.trials for request in trial.requests} == {8}
        assert cell.unproven == ()
    assert (record.engine, record.engine_info.device) == ("toy", "cpu")
    assert record.device is not None
    servers = [process for process in psutil.process_iter(["cmdline"]) if str(repository) in str(process.info)]
    assert servers == []


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("quant=fp8", "quant=fp8 on engine=toy: toy serves plain 16-bit models only: quant=bf16 context=native"),
        ("engine.dtype=int3", "engine.dtype: input should be 'bfloat16' or 'float32'"),
    ],
)
def test_the_example_engine_refuses_with_one_line(typed: str, message: str, repository: Path, cache: Path) -> None:
    done = run(repository, cache, "+model=tiny-qwen3", "engine=toy", typed)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert message in line


def test_the_example_quantization_and_source_make_a_proven_checkpoint(repository: Path, cache: Path) -> None:
    """The example section shows it in the run's report."""
    pytest.importorskip("llmcompressor")
    spec = compose_job(["+model=tiny-qwen3", "session=test"]).model
    weights = repository / "weights"
    weights.mkdir()
    spec.source.materialize(spec.source.identity(), spec.architecture, weights)
    with tarfile.open(repository / "weights.tar", "w") as archive:
        for file in sorted(weights.iterdir()):
            # The same bytes every time, so that a persistent cache has one checkpoint of it.
            archive.add(file, file.name, filter=lambda info: info.replace(mtime=0, deep=False))
    model = ("+model=archived", "model.source.path=weights.tar")
    done = run(repository, cache, *model, "quant=rtn-w8a8", "workload=none")
    assert done.returncode == 0, done.stderr
    checkpoint = record_of(repository, "rtn-w8a8").checkpoint
    assert checkpoint is not None
    assert checkpoint.provenance.startswith("the archive weights.tar, sha256 ")
    assert (checkpoint.format or "").startswith("int8, scales per channel, symmetric")
    assert checkpoint.fidelity is not None
    assert 0 < checkpoint.fidelity.kl_nats < 0.01
    [page] = repository.glob("reports/*rtn-w8a8*.html")
    section = page.read_text().partition('id="files"')[2].partition("</section>")[0]
    assert "rtn-w8a8" in section


def test_the_example_engine_is_short() -> None:
    lines = [line for file in (EXAMPLES / "engine").rglob("*.py") for line in file.read_text().splitlines()]
    assert len([line for line in lines if line.strip()]) < 120
