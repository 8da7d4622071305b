"""No config runs code, from a folder or the command line: it is refused before Hydra instantiates anything."""

import itertools
import re
from pathlib import Path

import pytest

from bench.config.compose import check_code, compose_job, split
from bench.config.no_code import LAUNCHERS
from bench.errors import ConfigError
from bench.plan.preflight import LAUNCHERS as PACKAGES
from bench.plan.preflight import preflight
from tests.support.program import Cli

TINY = ("+model=tiny-qwen3", "workload=none", "accuracy=none")
CALLBACK = r"hydra\.callbacks\.x\._target_"
MARK = "mark"
"""File that the planted code writes."""


def planted(folder: Path) -> str:
    """Return a config that calls a function of quantbench, which Hydra does not block."""
    return f"{{_target_: bench.files.append, file: {{_target_: pathlib.Path, _args_: [{folder / MARK}]}}, text: done}}"


def write(folder: Path, name: str, text: str) -> None:
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package _global_\n{text}\n")


RAY = "defaults: [override /hydra/launcher: ray]\n"
FILES = {
    "a callback": ("hydra: {callbacks: {x: CODE}}", CALLBACK),
    "callbacks by reference": ("extra: 1\nhydra: {callbacks: '${accuracy.tasks}'}", r"hydra\.callbacks"),
    "below the launcher": (f"{RAY}hydra: {{launcher: {{ray: {{init: {{x: CODE}}}}}}}}", r"init\.x\._target_"),
    "another launcher": ("hydra: {launcher: {_target_: hydra_plugins.x.Launcher}}", r"hydra\.launcher\._target_"),
    "another sweeper": ("hydra: {sweeper: {_target_: hydra_plugins.x.Sweeper}}", r"hydra\.sweeper\._target_"),
    "a made node": (
        RAY + """hydra: {launcher: {ray: {init: {x: '${oc.decode:"{_target_: os.getcwd}"}'}}}}""",
        r"hydra\.launcher\.ray\.init\.x=.*only results_dir",
    ),
    "a logging handler": ("hydra: {job_logging: {handlers: {x: {(): os.getcwd}}}}", r"hydra\.job_logging"),
    "Hydra's own logging": ("hydra: {hydra_logging: {handlers: {x: {class: os.getcwd}}}}", r"hydra\.hydra_logging"),
    "a level that is none": ("hydra: {job_logging: {root: {level: 'ext://os.name'}}}", r"hydra\.job_logging"),
    "variables": ("hydra: {job: {env_set: {PYTHONPATH: /evil}}}", r"hydra\.job\.env_set"),
    "jobs of its own": ("hydra: {sweeper: {params: {quant: 'bf16,fp8'}}}", r"hydra\.sweeper\.params"),
    "in the job": ("quant: {x: CODE}", r"quant\.x\._target_"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("mode", [(), ("-m",)], ids=["run", "sweep"])
def test_a_config_in_a_custom_folder_must_not_name_code(case: str, mode: tuple[str, ...], tmp_path: Path) -> None:
    text, said = FILES[case]
    write(tmp_path, "experiment/innocent", text.replace("CODE", planted(tmp_path)))
    for more in (("--config-dir", str(tmp_path)), (f"--config-dir={tmp_path}",), ("-cd", str(tmp_path))):
        with pytest.raises(ConfigError, match=said) as caught:
            preflight([*mode, *more, *TINY, "experiment=innocent"])
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
    assert not (tmp_path / MARK).exists()


COMMANDS = {
    "a callback in a folder": (["--config-dir", "DIR", "experiment=innocent"], CALLBACK),
    "in a sweep": (["-m", "--config-dir=DIR", "experiment=innocent", "quant=bf16,fp8"], CALLBACK),
    "in a folder of the search path": (["hydra.searchpath=[DIR]", "hydra/callbacks=evil"], r"hydra\.callbacks\.y"),
    "in both kinds of folder": (
        ["--config-dir", "EMPTY", "hydra.searchpath=[DIR]", "hydra/callbacks=evil"],
        r"hydra\.callbacks\.y",
    ),
    "typed": (["+hydra.callbacks.x=CODE"], CALLBACK),
    "typed for the launcher": (["-m", "quant=bf16,fp8", "+hydra.launcher.x=CODE"], r"hydra\.launcher\.x\._target_"),
    "for the sweep alone": (
        ["-m", "--config-dir", "DIR", "context=evil", "experiment=one,two"],
        r"hydra\.launcher\._target_",
    ),
    "two folders": (["--config-dir", "EMPTY", "--config-dir", "DIR", "experiment=innocent"], "one folder at most"),
    "where help is shown": (["--help", "--config-dir", "DIR", "experiment=innocent"], CALLBACK),
    "where a flag has no value": (
        ["--info", "--config-dir", "DIR", "-h", "experiment=innocent"],
        CALLBACK,
    ),
    "another main config": (["--help", "--config-dir", "DIR", "-cn", "other"], "-cn: no such flag"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_runs_no_code_of_a_config(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    (tmp_path / "empty").mkdir()
    code = planted(tmp_path)
    write(folder, "experiment/innocent", f"hydra: {{callbacks: {{x: {code}}}}}")
    for name in ("one", "two"):
        write(folder, f"experiment/{name}", f"hydra: {{launcher: {{_target_: {LAUNCHERS['basic']}}}}}")
    write(folder, "hydra/callbacks/evil", f"hydra: {{callbacks: {{y: {code}}}}}")
    context = "context: {name: evil, length: null}"
    write(folder, "context/evil", f"{context}\nhydra: {{launcher: {{_target_: hydra_plugins.x.Launcher}}}}")
    arguments, said = COMMANDS[case]
    places = {"DIR": str(folder), "EMPTY": str(tmp_path / "empty"), "CODE": code.replace(" ", "")}
    typed = [re.sub("DIR|EMPTY|CODE", lambda found: places[found[0]], text) for text in arguments]
    done = Cli(tmp_path / "cache", tmp_path)(*TINY, *typed)
    assert not (tmp_path / MARK).exists(), "the planted code ran"
    assert done.returncode == 2, done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(said, line), line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_shipped_launchers_are_free_of_code(launcher: str, tmp_path: Path) -> None:
    write(tmp_path, "experiment/cluster", "hydra: {launcher: {}, job_logging: {root: {level: INFO}}}")
    more = {
        "joblib": ["hydra.launcher.n_jobs=2"],
        "ray": ["+hydra.launcher.ray.remote.num_gpus=1"],
        "submitit_slurm": ["hydra.launcher.gpus_per_node=1", "hydra.launcher.name='${oc.env:USER,me}'"],
    }.get(launcher, [])
    assert set(LAUNCHERS) == set(PACKAGES)
    overrides = [*TINY, "experiment=cluster", f"hydra/launcher={launcher}", *more]
    check_code(overrides, [str(tmp_path)], multirun=True)
    assert compose_job([*overrides, "session=test"], [str(tmp_path)])


def test_the_levels_and_kinds_of_logging_may_be_chosen() -> None:
    for typed in ("hydra.job_logging.root.level=DEBUG", "hydra/job_logging=disabled", "hydra.verbose=true"):
        check_code([*TINY, typed])


def test_folders_of_both_kinds_are_searched_in_the_order_that_hydra_takes(tmp_path: Path) -> None:
    for name, length in (("one's own", 96), ("other, too", 80)):
        write(tmp_path / name, "context/mine", f"context: {{name: mine, length: {length}}}")
    first, second = (str(tmp_path / name) for name in ("one's own", "other, too"))
    quoted = second.replace("'", "\\'")
    for dirs, typed, length in (
        ([first], [], 96),
        ([first], [f"hydra.searchpath=['{quoted}']"], 96),
        ([second], [], 80),
    ):
        assert compose_job([*TINY, "context=mine", "session=t", *typed], dirs).context.length == length


WORDS = ("-m", "--info", "--info=all", "-c", "job", "--config-dir", "-cd=x", "a=1")


def test_flags_are_split_from_overrides_as_hydra_splits_them() -> None:
    from hydra._internal.utils import get_args_parser

    compared = 0
    for arguments in itertools.product(WORDS, repeat=3):
        try:
            expected = get_args_parser().parse_args(arguments)
        except SystemExit:
            continue
        compared += 1
        flags, overrides = split(arguments)
        assert overrides == expected.overrides, arguments
        dirs = [value for flag, value in itertools.pairwise([*flags, ""]) if flag in ("-cd", "--config-dir")]
        assert (dirs[-1] if dirs else None) == expected.config_dir, arguments
    assert compared > 100
