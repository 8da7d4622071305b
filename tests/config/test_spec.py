"""Names that become parts of paths: invalid ones are refused before anything is written, common ones work."""

import re
from pathlib import Path

import pytest

from bench.config.compose import compose_job
from bench.config.spec import NAME, name_of
from bench.plan.stages import plan
from tests.support.model_folders import sharded
from tests.support.program import Cli

TINY = ("+model=tiny-qwen3", "workload=none", "accuracy=none")
ALLOWED = "a name consists of letters, digits"
WRONG = {
    "a repository": (["model.name=Qwen/Qwen3-8B"], "model.name: 'Qwen/Qwen3-8B': "),
    "a way out": (["model.name=x/../../../../out"], "model.name: 'x/../../../../out': "),
    "dots": (["model.name=.."], "model.name: '..': "),
    "a hidden file": (["model.name=.x"], "model.name: '.x': "),
    "nothing": (["model.name=''"], "model.name: '': "),
    "two lines": (["model.name='a\\nb'"], "model.name: "),
    "a quantization": (["quant.name=a/../../../../out"], "quant.name: 'a/../../../../out': "),
    "a baseline": (["baseline=bf16", "baseline.name=../out"], "quant.name: '../out': "),
    "a task": (["accuracy.tasks=[mini-mmlu,../out]"], "accuracy.tasks.1: '../out': "),
    "a config elsewhere": (["quant=../quant/fp8"], "quant=../quant/fp8: "),
    "a config below": (["--config-dir", "DIR", "quant=team/mine"], "quant=team/mine: "),
    "a name in a config": (["--config-dir", "DIR", "quant=mine"], "quant.name: '../out': "),
    "an experiment elsewhere": (["--config-dir", "DIR", "experiment=../model/mine"], "experiment=../model/mine: "),
    "a baseline elsewhere": (["--config-dir", "DIR", "baseline=../mine"], "baseline=../mine: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_name_that_is_a_path_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "quant"
    (folder / "team").mkdir(parents=True)
    mine = "name: ../out\nmethod: fp8\nscheme: dynamic\nmax_kl: 1\nignore: [lm_head]\n"
    for name in ("mine", "team/mine"):
        (folder / f"{name}.yaml").write_text(mine)
    arguments, said = WRONG[case]
    (tmp_path / "work").mkdir()
    typed = [text.replace("DIR", str(tmp_path / "configs")) for text in arguments]
    done = Cli(tmp_path / "cache", tmp_path / "work")(*TINY, *typed)
    assert done.returncode == 2, done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert said in lines[0]
    assert ALLOWED in lines[0]
    assert not list((tmp_path / "work").iterdir()), "something was written"
    assert not list(tmp_path.rglob("out*"))


def test_a_repository_as_model_gets_the_override_to_use(cli: Cli) -> None:
    done = cli("model=Qwen/Qwen3-8B", "workload=none", "accuracy=none")
    assert done.returncode == 2
    assert "for a model on the hub: +model=hub model.source.repo=Qwen/Qwen3-8B" in done.stderr


@pytest.mark.parametrize("folder", ["my-model", "my model (v2)", "_x", "模型", "step=100", "Llama-3.1-8B_final"])
def test_a_folder_of_any_name_gives_a_model_a_name(folder: str, tmp_path: Path, cache: Path) -> None:
    path = sharded(tmp_path / folder)
    spec = compose_job(["+model=local", f"model.source.path='{path}'", "quant=bf16", "accuracy=none", "session=t"])
    assert NAME.fullmatch(spec.model.name)
    assert (spec.model.name == folder) == bool(NAME.fullmatch(folder))
    source = plan(spec).source
    assert source is not None
    assert source.target.parent.name == "sources"
    assert source.target.name.startswith(f"{spec.model.name}-")


def test_folders_of_different_names_give_different_names() -> None:
    names = [name_of(folder) for folder in ("my model", "my-model", "my+model", "模型", "型", "..", "")]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)
    assert re.fullmatch("my-model-[0-9a-f]{8}", names[0])
