"""Presets inherit from the bases of their group and only have the fields that they change."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from bench.config.compose import GROUPS, check_names, compose_job, jobs, names
from bench.config.presets import is_base
from bench.errors import ConfigError
from bench.paths import config_dir
from tests.support.program import Cli

BASED = [group for group in GROUPS if (config_dir() / group / "_base.yaml").exists()]
ANYTHING = "???"


def stems(group: str) -> list[str]:
    """Return the names of a group's files, bases included."""
    return sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))


def read(group: str, name: str) -> tuple[list[str], dict[str, Any]]:
    """Return (the configs that a file inherits from, the fields that it holds)."""
    fields = yaml.safe_load((config_dir() / group / f"{name}.yaml").read_text())
    defaults = [entry for entry in fields.pop("defaults", []) if isinstance(entry, str)]
    return [base for base in defaults if base != "_self_" and "@" not in base], fields


def inherited(group: str, name: str) -> dict[str, Any]:
    """Return the fields that a config has from the configs that it inherits from."""
    merged = OmegaConf.create()
    for base in read(group, name)[0]:
        merged = OmegaConf.merge(merged, inherited(group, base), read(group, base)[1])
    assert isinstance(merged, DictConfig)
    return OmegaConf.to_container(merged)


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield (f"{path}{key}", value)
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")


def ancestors(group: str, name: str) -> set[str]:
    bases = read(group, name)[0]
    return {*bases, *(base for parent in bases for base in ancestors(group, parent))}


@pytest.mark.parametrize("group", BASED)
def test_a_config_only_has_the_fields_that_it_changes(group: str) -> None:
    for name in stems(group):
        before = dict(leaves(inherited(group, name)))
        repeated = [path for path, value in leaves(read(group, name)[1]) if path in before and before[path] == value]
        assert repeated == [], f"{group}/{name}.yaml repeats fields that it inherits"


@pytest.mark.parametrize("group", BASED)
def test_a_preset_inherits_what_its_groups_base_gives(group: str) -> None:
    given = {path for path, value in leaves(read(group, "_base")[1]) if value != ANYTHING}
    for name in names(group):
        own = {path for path, _ in leaves(read(group, name)[1])}
        assert "_base" in ancestors(group, name) or not own & given, f"{group}/{name}.yaml does not inherit"


@pytest.mark.parametrize("group", GROUPS)
def test_a_field_has_its_comment_once_where_it_is_introduced(group: str) -> None:
    comments = {name: commented(group, name) for name in stems(group)}
    for name in stems(group):
        introduced = read(group, name)[1].keys() - inherited(group, name).keys()
        if is_base(name):
            assert introduced - dict(comments[name]).keys() == set(), f"{group}/{name}.yaml has no comment on these"
        for other in stems(group):
            if name in ancestors(group, other) and is_base(name):
                again = introduced & dict(comments[other]).keys()
                assert again == set(), f"{group}/{other}.yaml comments what {name}.yaml explains"
    everywhere = [comment for name in stems(group) for comment in comments[name]]
    assert sorted({comment for comment in everywhere if everywhere.count(comment) > 1}) == []


def commented(group: str, name: str) -> list[tuple[str, str]]:
    """Return (field, comment) of every line of a file that has both."""
    text = (config_dir() / group / f"{name}.yaml").read_text()
    return re.findall(r"^ *(\w+):.* # (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("group", GROUPS)
def test_bases_are_no_choices(group: str) -> None:
    offered = names(group)
    assert [name for name in offered if is_base(name)] == []
    assert jobs([f"{group}=glob(*)"], multirun=True) == [[f"{group}={name}"] for name in offered]


@pytest.mark.parametrize("own", [False, True], ids=["alone", "with a folder of one's own"])
@pytest.mark.parametrize("override", ["quant=_base", "quant@baseline=_gptq", "workload=_base", "+model=_qwen3"])
def test_choosing_a_base_is_reported_in_one_line(override: str, own: bool, tmp_path: Path) -> None:
    model = [] if "model=" in override else ["+model=tiny-qwen3"]
    with pytest.raises(ConfigError) as caught:
        compose_job([*model, override, "session=test"], [str(tmp_path)] if own else [])
    message = str(caught.value)
    key, _, name = override.lstrip("+").partition("=")
    assert message.startswith(f"{key.removeprefix('quant@')}={name}: no such {key.partition('@')[0]}")
    assert "\n" not in message
    assert not re.search(r"\b_", message.partition("Known: ")[2])


def test_configs_in_a_custom_folder_can_inherit_from_the_bases(tmp_path: Path) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant" / "_mine.yaml").write_text("defaults: [_base, _self_]\nmethod: fp8\nmax_kl: 1\n")
    (tmp_path / "quant" / "mine.yaml").write_text("defaults: [_mine, _self_]\nname: mine\nscheme: dynamic\n")
    spec = compose_job(["+model=tiny-qwen3", "quant=mine", "session=test"], [str(tmp_path)])
    assert spec.quant.method.config.model_dump()["ignore"] == ("lm_head", "re:.*mlp.gate$")
    assert spec.quant.method.config.model_dump()["max_kl"] == 1
    with pytest.raises(ConfigError, match="quant=_mine: no such quant"):
        check_names(["quant=_mine"], [str(tmp_path)])
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        check_names(["quant=mime"], [str(tmp_path)])


def test_help_and_completion_offer_no_base(cli: Cli) -> None:
    shown = cli("--help").stdout
    assert re.search(r"^workload: demo, load, nightly, none, openloop, prefill, qwen$", shown, re.MULTILINE)
    for line in ("quantbench run quant=", "quantbench run quant=_", "quantbench run model=_"):
        offered = cli("-sc", "query=bash", module="bench.cli", COMP_LINE=line, COMP_POINT=str(len(line))).stdout
        assert [word for word in offered.split() if "=_" in word] == []
