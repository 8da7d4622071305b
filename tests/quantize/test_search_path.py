"""Processes in an environment find the programs of that environment."""

import json
import os
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from bench.engines import engine as engine_named
from bench.engines import vllm
from bench.errors import EngineError
from bench.machine.child import Child
from bench.servers.lifecycle import serve
from bench.toolchains import build as toolchain_build
from bench.toolchains import toolchain
from quantize import worker
from quantize.architecture import Architecture
from quantize.checkpoint import Checkpoint
from quantize.key import Key
from quantize.search_path import search_path
from quantize.texts import HeldoutConfig
from testkit.records import manifest
from tests.support.presets import engine_fields

TOML = """
title = "a tiny one"
what_for = "tests"
requirements = ["tiny-tool==1.0"]
modules = ["json"]
disk_bytes = 2
download_bytes = 1
on_cpu = "everything"
check = '''{check}'''
"""
PROGRAM = "quantbench-test-program"
LOOK = f"import shutil; print('found', shutil.which('{PROGRAM}')); raise SystemExit(7)"
"""Code of a toolchain package that runs a program and exits."""
SERVERS = {"sglang": "sglang/launch_server.py", "vllm": "vllm/entrypoints/openai/api_server.py"}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the environment of a built toolchain: a real one, with a program next to its interpreter."""
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "FOLDER", tmp_path)
    (tmp_path / "tiny.toml").write_text(TOML.format(check=LOOK.partition(";")[0]))
    chain = toolchain.read("tiny")
    version = toolchain.base_python(chain)[1]
    place = toolchain.folder(chain, version)
    venv.create(place, symlinks=True)
    program = place / "bin" / PROGRAM
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    facts: dict[str, Any] = {"name": "tiny", "requirements": chain.requirements, "python": version, "versions": {}}
    facts |= {"disk_bytes": 2, "build_s": 1, "created_at": "2026-11-30"}
    (place / toolchain.MANIFEST).write_text(json.dumps(facts))
    return place


def install(place: Path, name: str, text: str) -> None:
    """Write a module into the packages of an environment."""
    (packages,) = place.glob("lib/python*/site-packages")
    module = packages / name
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(text)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_finds_the_programs_of_its_toolchain(
    name: str, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(built, SERVERS[name], LOOK)
    monkeypatch.setattr(vllm, "TOOLCHAINS", {"cuda": "tiny", "cpu": "tiny"})
    fields = engine_fields(name)
    fields |= {"toolchain": "tiny"} if name == "sglang" else {"device": "cuda"}
    log = tmp_path / "server.log"
    with (
        pytest.raises(EngineError, match="ended with code 7"),
        serve(
            engine_named(name, fields),
            Checkpoint(path=tmp_path, manifest=manifest("bf16"), reused=True, reason=""),
            context_length=100,
            what="server of a test",
            log_file=log,
            on_wait=lambda: None,
        ),
    ):
        pass
    assert f"found {built / 'bin' / PROGRAM}" in log.read_text()


def test_a_quantizer_finds_the_programs_of_its_toolchain(
    built: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    install(built, "pydantic.py", LOOK)  # the first package that the step imports
    job = worker.BuildJob(
        stage="quantize",
        module="gptq",
        config={},
        identity={},
        release=None,
        key=Key(stage="quantize", version=1, inputs={}),
        architecture=Architecture(
            layers=1,
            hidden_size=8,
            intermediate_size=8,
            heads=1,
            kv_heads=1,
            head_dim=8,
            vocab_size=8,
            tied_embeddings=True,
        ),
        seed=0,
        heldout=HeldoutConfig(set="embedded", n_samples=1, max_seq_len=16),
        interpreter=str(built / "bin" / "python"),
        source=tmp_path,
        target=tmp_path / "target",
        libraries={},
        proof_key=None,
        proof_libraries={},
    )
    with worker.only_builder(job) as lock, pytest.raises(worker.StepFailedError, match="ended with code 7"):
        worker._run_step(job, [], tmp_path / "work", lock)
    assert f"found {built / 'bin' / PROGRAM}" in capfd.readouterr().out


def test_the_check_of_a_toolchain_finds_its_programs(built: Path, tmp_path: Path) -> None:
    check = f'import shutil; print(json.dumps(shutil.which("{PROGRAM}")))'
    (tmp_path / "tiny.toml").write_text(TOML.format(check=check))
    assert json.loads(toolchain_build.check("tiny")) == str(built / "bin" / PROGRAM)


def test_a_path_set_in_the_environment_comes_first(built: Path, tmp_path: Path) -> None:
    argv = [str(built / "bin" / "python"), "-c", "import os; print(os.environ['PATH'])"]
    log = tmp_path / "log"
    with Child(argv, what="test", log_file=log, env={"PATH": "/chosen"}, cwd=tmp_path) as child:
        child.wait(60)
    assert log.read_text() == "/chosen\n"


def test_only_a_virtual_environment_changes_the_path(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = str(built / "bin" / "python")
    assert search_path(python) == {"PATH": f"{built / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    assert search_path(str(Path(sys.executable).resolve())) == {}
    assert search_path("python") == {}
    monkeypatch.setenv("PATH", "")
    assert search_path(python) == {"PATH": str(built / "bin")}
