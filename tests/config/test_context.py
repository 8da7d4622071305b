"""Contexts beyond a model's own: one setting for every engine, stored in every record."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.config.compose import compose_job
from bench.config.spec import RunSpec
from bench.engines import Launch
from bench.errors import ConfigError
from bench.plan.stages import context_of, plan
from bench.records.record import RunRecord, Yarn
from tests.support.program import Cli
from tests.support.serving import Server, prompt, write_checkpoint

YARN = Yarn(factor=4, original=32768)


def spec(*overrides: str) -> RunSpec:
    return compose_job([*overrides, "session=test"])


@pytest.mark.parametrize(
    ("model", "context", "length", "yarn"),
    [
        ("qwen3-8b", "native", 40960, None),
        ("qwen3-8b", "131k", 131072, YARN),
        ("qwen3-8b", "1m", 1048576, Yarn(factor=32, original=32768)),
        ("qwen3-4b-instruct-2507", "131k", 131072, None),
        ("qwen3-4b-instruct-2507", "1m", 1048576, Yarn(factor=4, original=262144)),
        ("tiny-qwen3", "131k", 131072, None),
        ("smollm2-135m", "131k", 131072, Yarn(factor=16, original=8192)),
    ],
)
def test_positions_are_stretched_only_beyond_the_models_own_context(
    model: str, context: str, length: int, yarn: Yarn | None
) -> None:
    run = spec(f"+model={model}", f"context={context}")
    assert (run.context_length, run.yarn) == (length, yarn)
    assert context_of(run) == length


def test_any_context_length_can_be_set_and_is_part_of_the_models_name() -> None:
    run = spec("+model=qwen3-8b", "context.length=65536")
    assert run.yarn == Yarn(factor=2, original=32768)
    assert run.variant.model == "qwen3-8b[context.length=65536]"
    assert spec("+model=qwen3-8b", "context.length=1024").yarn is None
    assert spec("+model=qwen3-8b", "context=native").variant.model == "qwen3-8b"


def test_a_model_whose_positions_are_not_known_cannot_be_stretched() -> None:
    with pytest.raises(ConfigError, match=r"the context of qwen3-8b is 40960 tokens.*model.rope="):
        spec("+model=qwen3-8b", "context=131k", "model.rope=null")


def test_a_stretched_model_is_another_run() -> None:
    first, second = (plan(spec("+model=tiny-qwen3", f"context.length={n}")) for n in (131072, 262144))
    assert first.key != second.key
    assert first.quantize is not None
    assert second.quantize is not None
    assert first.quantize.key == second.quantize.key, "the weights are the same"
    assert {task.key.digest for task in first.tasks}.isdisjoint({task.key.digest for task in second.tasks})


@pytest.mark.parametrize("engine", ["transformers", "sglang", "vllm"])
def test_every_engine_stretches_alike(engine: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"rope_theta": 1e6}))
    run = spec("+model=qwen3-8b", "context=131k", f"engine={engine}")
    plain, stretched = (
        run.engine.command("python", Launch(tmp_path, 131072, 1, yarn=yarn)) for yarn in (None, run.yarn)
    )
    more = [word for word in stretched if word not in plain]
    text = " ".join(more)
    numbers: dict[str, Any] = json.loads(more[1]) if engine != "transformers" else {}
    if engine == "transformers":
        assert text == "--yarn-factor 4.0 --yarn-original 32768"
        return
    scaling = numbers["rope_scaling" if engine == "sglang" else "rope_parameters"]
    assert (scaling["rope_type"], scaling["factor"], scaling["original_max_position_embeddings"]) == ("yarn", 4, 32768)
    assert numbers["max_position_embeddings"] >= 131072


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_reference_server_computes_what_transformers_does(family: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    from bench.servers.reference.kv import SequenceKV
    from bench.servers.reference.model import Model

    write_checkpoint(tmp_path / family, family)
    config = AutoConfig.from_pretrained(tmp_path / family)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / family, dtype=torch.float32).eval()
    config.rope_parameters = {
        **config.rope_parameters, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
    }  # fmt: skip
    config.max_position_embeddings = 128
    truth = AutoModelForCausalLM.from_pretrained(tmp_path / family, config=config, dtype=torch.float32).eval()
    served = Model(tmp_path / family, "cpu", "float32")
    served.stretch(4.0, 32)
    assert served.max_positions == 128
    ids = prompt(1, 120)
    [logits] = served.forward([ids], [SequenceKV(reserve=1)], [120])
    with torch.inference_mode():
        expected, unstretched = (model(torch.tensor([ids])).logits[0] for model in (truth, plain))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert (logits - unstretched).abs().max() > 0.01


def test_a_server_takes_prompts_as_long_as_it_was_stretched(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_checkpoint(tmp_path / "tiny")
    server = Server(tmp_path / "tiny", "--yarn-factor", "4", "--yarn-original", "64", "--context-length", "256")
    try:
        server.await_ready()
        assert server.generate(prompt(1, 200), 2)["meta_info"]["prompt_tokens"] == 200
        status, answer = server.post({"input_ids": prompt(1, 257), "sampling_params": {"max_new_tokens": 1}})
        assert status == 400
        assert "256 tokens" in answer["error"]["message"]
    finally:
        server.stop()


@pytest.mark.long
def test_a_run_records_the_context_in_every_cell_and_score(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "+model=tiny-qwen3", "model.context_length=128", "model.rope.original=128", "context.length=512",
        "workload.input_lens=[16,300,600]", "workload.output_len=4", "workload.trials=1", "workload.concurrency=1",
        "accuracy.tasks=[mini-mmlu]", "accuracy.limit=1", "accuracy.at_least=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [file] = (cli.folder / "results" / "runs").glob("*/record.json")
    record = RunRecord.model_validate_json(file.read_bytes())
    stretched = Yarn(factor=4, original=128)
    assert [cell.status for cell in record.cells] == ["ok", "ok", "not_supported"]
    assert {(cell.context_length, cell.yarn) for cell in record.cells} == {(512, stretched)}
    assert {(score.context_length, score.yarn) for score in record.scores} == {(512, stretched)}
    assert all("stretched 4 times" in " ".join(cell.warnings) for cell in record.cells if cell.status == "ok")
    report = next((cli.folder / "reports").glob("*.html")).read_text()
    assert "YaRN: positions stretched 4 times, to 512 tokens" in report
