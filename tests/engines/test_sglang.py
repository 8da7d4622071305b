"""Engine ``sglang``: the real parser accepts every flag, and the answers of the real server are read."""

import ast
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config import validate
from bench.config.compose import compose_job
from bench.engines import Launch, ServedModel, sglang
from bench.engines.sglang import Config, SGLang
from bench.errors import ConfigError
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.toolchains import toolchain
from bench.toolchains.build import alone
from quantize.checkpoint import Manifest
from quantize.formats import Format, integers
from testkit.records import manifest
from tests.support.presets import engine_fields
from tests.support.program import Cli

LAUNCH = Launch(Path("/m"), 40960, 31000)
STRETCHED = Launch(Path("/m"), 131072, 31000, yarn=Yarn(factor=4, original=32768))
KEY = "a-secret-key"
EVERYTHING: dict[str, Any] = {
    "device": "cuda",
    "dtype": "bfloat16",
    "kv_cache_dtype": "fp8_e4m3",
    "context_length": 140000,
    "max_total_tokens": 200000,
    "max_running_requests": 64,
    "chunked_prefill_size": 8192,
    "mixed_chunk": True,
    "tp_size": 2,
    "dp_size": 2,
    "pp_size": 2,
    "ep_size": 2,
    "nnodes": 2,
    "node_rank": 1,
    "dist_init_addr": "10.0.0.1:5000",
    "attention_backend": "flashinfer",
    "deterministic": True,
    "skip_tokenizer_init": True,
    "incremental_streaming": True,
    "metrics": True,
    "extra_args": ("--watchdog-timeout", "600"),
}
ON_CPU = {"device": "cpu", "toolchain": "sglang-cpu"}


def config(**changes: Any) -> Config:
    return Config.model_validate({**engine_fields("sglang"), **changes})


def engine(**changes: Any) -> SGLang:
    return SGLang(name="sglang", config=config(**changes))


@cache
def real_python() -> str:
    """Return an interpreter that has the real SGLang, or skip."""
    variable = os.environ.get("QUANTBENCH_SGLANG_PYTHON")
    built = [toolchain.state(toolchain.read(name)).python for name in ("sglang", "sglang-cpu")]
    python_path = next((python for python in (variable, *built) if python), None)
    if python_path is None:
        pytest.skip("no SGLang: quantbench toolchain build sglang-cpu, or name one with QUANTBENCH_SGLANG_PYTHON=…")
    return python_path


PARSE = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
parsed = [vars(parser.parse_args(argv)) for argv in json.loads(sys.stdin.read())]
print(json.dumps(parsed, default=str))
"""


def parsed(*configs: Config, launch: Launch = LAUNCH) -> list[dict[str, Any]]:
    """Return the values that the real parser reads from the commands."""
    python = real_python()
    commands = [SGLang(name="sglang", config=settings).command(python, launch)[3:] for settings in configs]
    env = {**os.environ, **alone(), **toolchain.variables("sglang-cpu")}
    done = subprocess.run(
        [python, "-c", PARSE], input=json.dumps(commands), env=env, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    answer: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_real_parser_accepts_every_flag_with_its_meaning() -> None:
    published, cpu = parsed(config(), config(**ON_CPU))
    [everything] = parsed(config(**EVERYTHING), launch=STRETCHED)
    assert published["json_model_override_args"] == "{}"
    assert published["mem_fraction_static"] == 0.85
    assert published["context_length"] == 40960 + sglang.OWN_POSITIONS
    assert published["enable_mixed_chunk"] is True
    assert published["incremental_streaming_output"] is True
    assert published["quantization"] is None
    assert published["host"] == "127.0.0.1"
    assert published["api_key"] is None
    for name in ("tp_size", "dp_size", "pp_size", "ep_size", "nnodes", "node_rank", "dist_init_addr", "kv_cache_dtype"):
        assert everything[name] == EVERYTHING[name]
    for name in ("max_total_tokens", "max_running_requests", "chunked_prefill_size", "attention_backend", "dtype"):
        assert everything[name] == EVERYTHING[name]
    assert everything["enable_deterministic_inference"] is True
    assert everything["skip_tokenizer_init"] is True
    assert everything["enable_metrics"] is True
    assert everything["watchdog_timeout"] == 600
    assert json.loads(everything["json_model_override_args"]) == {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        "max_position_embeddings": 140000,
    }
    assert (cpu["device"], cpu["attention_backend"], cpu["max_total_tokens"]) == ("cpu", "torch_native", 16384)
    assert cpu["disable_overlap_schedule"] is True


def test_every_field_that_changes_the_server_changes_its_command() -> None:
    outside_command = {"toolchain", "node_rank", "dist_init_addr"}
    plain = engine().command("python", LAUNCH)
    others: dict[str, Any] = {"mem_fraction_static": 0.5, "random_seed": 5, "nnodes": 2}
    for name in Config.model_fields:
        if name.endswith("_s") or name in outside_command:
            continue
        value = others.get(name, EVERYTHING.get(name))
        value = not getattr(config(), name) if isinstance(value, bool) else value
        more = {"dist_init_addr": "h:1"} if name == "nnodes" else {}
        assert engine(**{name: value}, **more).command("python", LAUNCH) != plain, name


def test_two_servers_share_the_memory() -> None:
    argv = engine().command("python", Launch(Path("/m"), 100, 1, share=0.5))
    assert argv[argv.index("--mem-fraction-static") + 1] == "0.425"
    # SGLang divides the memory that is free at its start: 0.425 of the whole is 0.7391 of what the first server leaves.
    argv = engine().command("python", Launch(Path("/m"), 100, 1, share=0.5, running_servers=1))
    assert argv[argv.index("--mem-fraction-static") + 1] == "0.7391"


@given(st.floats(1, 64), st.integers(1024, 2**20), st.integers(1, 2**21))
def test_a_stretched_context_is_as_long_as_what_is_asked_for(factor: float, original: int, context: int) -> None:
    fields = sglang.yarn_fields(Yarn(factor=factor, original=original), context)
    assert fields["max_position_embeddings"] >= context
    assert fields["rope_scaling"]["original_max_position_embeddings"] == original


def test_the_key_is_in_the_environment_only() -> None:
    assert all(KEY not in word for word in engine(**EVERYTHING).command("python", LAUNCH))
    environment = engine().environment(KEY)
    assert environment[sglang.KEY_VARIABLE] == KEY
    assert environment["PYTHONPATH"] == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nnodes": 2}, "needs dist_init_addr"),
        ({"node_rank": 1}, "must be below nnodes"),
        ({"mem_fraction_static": 1.5}, "mem_fraction_static"),
        ({"kv_cache_dtype": "fp7"}, "kv_cache_dtype"),
    ],
)
def test_impossible_settings_are_rejected_before_the_start(changes: dict[str, Any], message: str) -> None:
    overrides = [f"engine.{name}={value}" for name, value in changes.items()]
    with pytest.raises(ConfigError, match=message):
        compose_job(["+model=tiny-qwen3", "engine=sglang", *overrides, "session=t"])


SERVER_INFO = {
    "version": "0.5.23",
    "device": "cuda",
    "tp_size": 2,
    "api_key": KEY,
    "admin_api_key": None,
    "context_length": 40960,
    "max_req_input_len": 40954,
    "max_total_num_tokens": 375210,
    "internal_states": [
        {
            "memory_usage": {"weight": 4.0, "kvcache": 52.1, "token_capacity": 375210},
            "effective_max_running_requests_per_dp": 64,
        }
    ],
}


def facts_with(changes: dict[str, Any], **fields: Any) -> tuple[EngineInfo, ServerFacts]:
    answers = {"/server_info": {**SERVER_INFO, **changes}, "/model_info": {"model_type": "qwen3"}}
    return engine(**fields).facts(lambda path: (200, json.dumps(answers[path]).encode()), lambda: "")


def test_server_info_is_recorded_without_the_key() -> None:
    info, facts = facts_with({}, tp_size=2)
    assert KEY not in info.model_dump_json()
    assert info.model_type == "qwen3"
    assert facts == ServerFacts(
        version="0.5.23",
        kv_capacity_tokens=375210,
        max_context_tokens=40954,
        weights_bytes=8 * 2**30,
        kv_cache_dtype="auto",
        devices=2,
        max_running=64,
    )


def test_copies_of_the_model_add_capacity_and_no_devices() -> None:
    _, facts = facts_with({}, dp_size=2)
    assert (facts.kv_capacity_tokens, facts.devices, facts.weights_bytes) == (750420, 1, 4 * 2**30)
    assert facts.max_running == 128


def test_on_a_cpu_the_memory_of_the_weights_is_not_known() -> None:
    _, facts = facts_with({"device": "cpu"}, **ON_CPU)
    assert facts.weights_bytes is None


def _facts(weights_bytes: int | None) -> ServerFacts:
    return facts_with({})[1].model_copy(update={"weights_bytes": weights_bytes})


def _stored(quant: str) -> tuple[Manifest, int]:
    checkpoint = manifest(quant)
    return checkpoint, sum(file.bytes for name, file in checkpoint.files.items() if name.endswith(".safetensors"))


def test_weights_that_were_expanded_are_seen_by_their_memory() -> None:
    checkpoint, stored = _stored("fp8")
    assert engine().expanded(_facts(int(stored * 1.05)), checkpoint, stored * 2) is None
    assert "expanded them" in (engine().expanded(_facts(int(stored * 1.9)), checkpoint, stored * 2) or "")


def test_where_nothing_is_quantized_or_known_nothing_was_expanded() -> None:
    plain, stored = _stored("bf16")
    quantized, _ = _stored("fp8")
    assert engine().expanded(_facts(stored), plain, stored) is None
    assert engine().expanded(_facts(None), quantized, stored) is None


def model_of(form: Format | None) -> ServedModel:
    shapes = compose_job(["+model=tiny-qwen3", "session=test"]).model.architecture
    return ServedModel(architecture=shapes, form=form, context_length=512, yarn=None)


def test_a_cpu_accepts_no_quantized_checkpoint() -> None:
    form = integers(4, 64, symmetric=True)
    assert "no quantized checkpoint" in (engine(**ON_CPU).refuses(model_of(form)) or "")
    assert engine(**ON_CPU).refuses(model_of(None)) is None
    assert engine().refuses(model_of(form)) is None


def test_the_launcher_imports_no_own_module_and_hides_the_key() -> None:
    tree = ast.parse(sglang.LAUNCHER.read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [module for module in imported if module and module.split(".")[0] in ("bench", "quantize")]
    code = (
        f"import logging, sys; sys.path.insert(0, {str(sglang.LAUNCHER.parent)!r}); import sglang_launch\n"
        f"sglang_launch.hide({KEY!r}); logging.warning('args: %s', {{'api_key': {KEY!r}}}); logging.warning('100 %%')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stderr
    assert "'api_key': '…'" in done.stderr


LAUNCHED = f"""
import sys, threading, time
sys.path.insert(0, {str(sglang.LAUNCHER.parent)!r})
import sglang_launch
threading.Thread(target=sglang_launch.end_with_parent, daemon=True).start()
time.sleep(0.2)  # until the thread waits for standard input
"""


def launched(code: str) -> "subprocess.Popen[bytes]":
    """Start a program that ends with its parent, as the launcher does, in its own process group."""
    argv = [sys.executable, "-c", LAUNCHED + code]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def test_an_error_of_the_launched_server_is_reported_as_that_error() -> None:
    with launched("raise ValueError('no such model')") as child:
        assert child.stderr is not None
        assert child.stderr.read().splitlines()[-1] == b"ValueError: no such model"
        assert child.wait(10) == 1


def test_the_launched_server_ends_when_standard_input_closes() -> None:
    with launched("time.sleep(60)") as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(10) == -signal.SIGKILL


@pytest.fixture
def with_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make nvidia-smi list a GPU, with no toolchain built; return PATH."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)'\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))
    return path


@pytest.mark.parametrize(("gpu", "name"), [(True, "sglang"), (False, "transformers")])
def test_auto_selects_sglang_on_a_gpu(gpu: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = toolchain.State(kind="built", python="/python")
    monkeypatch.setattr(validate, "has_cuda_device", lambda: gpu)
    monkeypatch.setattr(toolchain, "state", lambda chain: state)
    overrides = ["engine.stall_timeout_s=7", "engine.sglang.tp_size=2", "+kv_cache=fp8"]
    selected = compose_job(["+model=tiny-qwen3", *overrides, "session=t"]).engine
    assert (selected.name, type(selected).__module__) == (name, f"bench.engines.{name}")
    assert selected.config.stall_timeout_s == 7
    assert selected.kv_cache_dtype == "fp8_e4m3"
    if name == "sglang":
        assert selected.parallelism.tp == 2
        assert selected.memory_fraction == 0.85
        assert selected.config.startup_timeout_s == 1800


def test_auto_on_a_gpu_without_the_toolchain_stops_in_one_line(with_gpu: str, cli: Cli, tmp_path: Path) -> None:
    env = {"PATH": with_gpu, "QUANTBENCH_CACHE": str(tmp_path / "cache")}
    done = cli("+model=tiny-qwen3", "quant=fp8", **env)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "engine=auto on a CUDA device needs the toolchain sglang, which is not built" in line
    assert "quantbench toolchain build sglang (10.0 GB on disk)" in line
    assert "engine=transformers" in line
    assert not (cli.folder / "results" / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["engine=transformers"], "transformers"),
        (["experiment=demo"], "transformers"),
        (["workload=none", "accuracy=none"], "sglang"),
        (["plan=true"], "sglang"),
        (["hardware=cpu", "plan=true"], "transformers"),
        (["hardware=h100", "plan=true"], "sglang"),
    ],
)
def test_auto_needs_no_toolchain_without_a_server_or_with_a_named_engine(
    overrides: list[str], name: str, with_gpu: str
) -> None:
    assert compose_job(["+model=tiny-qwen3", *overrides, "session=t"]).engine.name == name


def test_a_plan_for_a_gpu_without_the_toolchain_says_that_it_is_missing(
    with_gpu: str, cli: Cli, tmp_path: Path
) -> None:
    env = {"PATH": with_gpu, "QUANTBENCH_CACHE": str(tmp_path / "cache")}
    done = cli("+model=tiny-qwen3", "plan=true", **env)
    assert done.returncode == 0, done.stderr
    assert "quantbench toolchain build sglang" in done.stdout


def test_a_gpu_that_does_not_answer_is_none(with_gpu: str, tmp_path: Path) -> None:
    assert validate.has_cuda_device()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert not validate.has_cuda_device()
    assert compose_job(["+model=tiny-qwen3", "session=t"]).engine.name == "transformers"
