"""The stages of a run, planned without running anything."""

from pathlib import Path

import pytest

from bench.config.compose import compose_job
from bench.errors import NotPossibleError
from bench.plan.stages import TaskStage, check, plan

TASKS = ["mini-mmlu", "mini-ceval", "mini-ifeval"]


@pytest.fixture(autouse=True)
def _new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path))


def tasks(*overrides: str) -> tuple[TaskStage, ...]:
    return plan(compose_job(["+model=tiny-qwen3", "session=test", *overrides])).tasks


def test_for_the_noise_floor_the_baseline_is_scored_once_more() -> None:
    stages = tasks("quant=bf16", "accuracy.noise_floor=true")
    assert [(stage.title, stage.repeat) for stage in stages] == [
        *((task, 0) for task in TASKS),
        *((f"{task}, repeated", 1) for task in TASKS),
    ]
    assert len({stage.key.digest for stage in stages}) == 6
    assert [stage.repeat for stage in tasks("quant=bf16")] == [0] * 3
    assert [stage.repeat for stage in tasks("quant=fp8", "accuracy.noise_floor=true")] == [0] * 3


def test_the_key_of_a_stage_has_the_version_of_its_code() -> None:
    """With another version, no earlier result is reused: raise it only with a change that changes the results."""
    stages = plan(compose_job(["+model=tiny-qwen3", "accuracy=none", "session=test"]))
    assert stages.source
    assert stages.quantize
    assert stages.quantize.proof is None
    quantized = plan(compose_job(["+model=tiny-qwen3", "accuracy=none", "session=test", "quant=fp8"])).quantize
    assert quantized
    assert quantized.proof
    keys = (stages.source.key, quantized.key, quantized.proof, stages.key)
    assert [(key.stage, key.version) for key in keys] == [("source", 3), ("quantize", 3), ("proof", 1), ("run", 3)]


@pytest.mark.parametrize(
    "change", ["calibration.heldout.n_samples=3", "calibration.heldout.max_seq_len=64", "calibration.heldout.set=OWN"]
)
def test_another_held_out_text_proves_the_same_weights_again(change: str, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("A text that nothing was calibrated on.")
    tiny = ["+model=tiny-qwen3", "accuracy=none", "session=test", "quant=gptq-int4"]
    first, second = (
        plan(compose_job([*tiny, *more])).quantize for more in ([], [change.replace("OWN", str(tmp_path / "own.txt"))])
    )
    assert first
    assert second
    assert first.key == second.key
    assert first.target == second.target
    assert first.proof != second.proof


def test_another_version_of_what_computes_the_proof_changes_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.plan import stages

    tiny = ["+model=tiny-qwen3", "accuracy=none", "session=test", "quant=fp8"]
    before = plan(compose_job(tiny)).quantize
    real = stages.deciding_versions
    newer = {name: f"{version}.1" for name, version in real(stages.PROOF).items()}
    monkeypatch.setattr(stages, "deciding_versions", lambda names: newer if names == stages.PROOF else real(names))
    after = plan(compose_job(tiny)).quantize
    assert before
    assert after
    assert before.key == after.key
    assert before.proof != after.proof


def test_a_baseline_is_served_on_one_machine() -> None:
    tiny = ["+model=tiny-qwen3", "accuracy=none", "session=test", "quant@baseline=bf16"]
    check(compose_job([*tiny, "engine=transformers"]))
    two = ["engine=sglang", "engine.nnodes=2", "engine.dist_init_addr=n1:5000"]
    with pytest.raises(NotPossibleError, match=r"baseline=… and engine\.nnodes above 1"):
        check(compose_job([*tiny, *two]))
