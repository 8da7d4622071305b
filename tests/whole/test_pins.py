"""constraints/pinned.txt has a version of every package of an environment, and names no package index."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = sorted((ROOT / "constraints").glob("*.txt"))
INSTALLED = ("demo", "dev")
"""The extras that ``make setup`` installs."""


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints" / "pinned.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def declared(extra: str | None = None) -> Iterator[Requirement]:
    """Yield what pyproject.toml requires, with the extras that an extra names."""
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:
            yield requirement
        for named in requirement.extras if requirement.name == PROJECT["name"] else ():
            yield from declared(named)


def requirements() -> list[Requirement]:
    return [*declared(), *(requirement for extra in INSTALLED for requirement in declared(extra))]


def required_here(requirements: list[Requirement]) -> set[str]:
    """Return the names of all packages that these need on this machine, by the metadata of what is installed."""
    waiting, seen = requirements, set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        for key in ((canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)):
            if key not in seen:
                seen.add(key)
                needed = map(Requirement, metadata.requires(key[0]) or ())
                waiting += [need for need in needed if not need.marker or need.marker.evaluate({"extra": key[1]})]
    return {name for name, _ in seen}


def test_a_pin_is_one_exact_version() -> None:
    for pin in pins():
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), pin
    names = [pin.name for pin in pins()]
    assert names == sorted({canonicalize_name(name) for name in names})


def test_every_dependency_is_pinned_inside_its_range() -> None:
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins()}
    assert len(requirements()) > 40
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not pinned: run make lock"
        assert version in requirement.specifier, f"{requirement} excludes the pinned {version}: run make lock"


def test_what_a_dependency_needs_is_pinned_too() -> None:
    assert required_here(requirements()) - {canonicalize_name(pin.name) for pin in pins()} == set(), "run make lock"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_line_names_a_package_index(file: Path) -> None:
    assert not re.search(r"://|@|^-", file.read_text(), re.MULTILINE)


def test_ci_runs_on_every_python_that_the_project_names() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    [oldest] = [step["with"]["python-version"] for step in jobs["test"]["steps"] if "python-version" in str(step)]
    assert [oldest, *jobs["pythons"]["strategy"]["matrix"]["python"]] == named
    assert PROJECT["requires-python"] == f">={oldest}"


def test_a_lock_that_fails_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\necho 'no solution' >&2\nexit 2\n")
    (tmp_path / "uv").chmod(0o755)
    before = (ROOT / "constraints" / "pinned.txt").read_bytes()
    done = subprocess.run(
        [sys.executable, "constraints/lock.py"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "no solution\nerror: uv ended with exit code 2; nothing was changed\n"
    assert (ROOT / "constraints" / "pinned.txt").read_bytes() == before
