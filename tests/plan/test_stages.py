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
    keys = (stages.source.key, stages.quantize.key, stages.key)
    assert [(key.stage, key.version) for key in keys] == [("source", 3), ("quantize", 2), ("run", 3)]


def test_a_baseline_is_served_on_one_machine() -> None:
    tiny = ["+model=tiny-qwen3", "accuracy=none", "session=test", "quant@baseline=bf16"]
    check(compose_job([*tiny, "engine=transformers"]))
    two = ["engine=sglang", "engine.nnodes=2", "engine.dist_init_addr=n1:5000"]
    with pytest.raises(NotPossibleError, match=r"baseline=… and engine\.nnodes above 1"):
        check(compose_job([*tiny, *two]))
