"""Files, names and commands in the docs exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from bench.cli import COMMANDS
from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("bench", "quantize", "tests", "testkit", "benchmarks")
FOLDERS = (*PACKAGES, "configs", "constraints", "docs", "examples", "results/published", ".github")
PLACEHOLDER = re.compile(r"(?<![A-Za-z])[A-Z]{3,}(?![A-Za-z])")
"""A placeholder for a name that the reader chooses, as in ``configs/quant/NAME.yaml``."""
MODULES = ("bench.run", "benchmarks", "bench.messages.check")
"""Modules that the docs start by ``python -m``; everything else is a subcommand of ``quantbench``."""


def quoted(text: str) -> set[str]:
    """Return the texts in backticks of a page, without code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"`([^`\n]+)`", prose))


@cache
def names_of_tests() -> set[str]:
    """Return the names of all test files, in any folder."""
    return {file.name for file in (ROOT / "tests").rglob("test_*.py")}


def is_file(name: str) -> bool:
    """Whether a path exists. A test file needs only its name; a placeholder is any name in an existing folder."""
    if re.fullmatch(r"test_\w+\.py", name):
        return name in names_of_tests()
    path = Path(name)
    while PLACEHOLDER.search(path.as_posix()):
        path = path.parent
    return any(ROOT.glob(path.as_posix())) if "*" in path.as_posix() else (ROOT / path).exists()


def members(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Return {name: its statements} for all definitions of a module or class."""
    inside: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside[node.name] = []
        elif isinstance(node, ast.ClassDef):
            inside[node.name] = node.body
        elif isinstance(node, ast.Assign):
            inside |= {target.id: [] for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            inside[node.target.id] = []
    return inside


@cache
def is_defined(name: str) -> bool:
    """Whether a dotted name is a module, or is defined by a module or its class; nothing is imported."""
    parts = name.split(".")
    folder = ROOT
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    module = folder / f"{parts[0]}.py" if parts else folder
    if parts and module.is_file():
        parts.pop(0)
    else:
        module = folder / "__init__.py"
    if not parts:
        return True
    if not module.is_file():
        return False
    body = ast.parse(module.read_text()).body
    for part in parts:
        known = members(body)
        if part not in known:
            return False
        body = known[part]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_names_that_a_page_mentions_exist(page: Path) -> None:
    missing = []
    for word in quoted(page.read_text()):
        path = re.fullmatch(rf"(?:(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*|test_\w+\.py)", word)
        dotted = re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+", word)
        if (path and not is_file(word)) or (dotted and not path and not is_defined(word)):
            missing.append(word)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_programs_and_words_that_a_page_mentions_exist(page: Path) -> None:
    text = page.read_text()
    started = re.findall(r"python -m ([\w.]+)", text)
    assert [module for module in started if module not in MODULES] == []
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    typed = [*quoted(text), *(line.removeprefix("$ ") for line in blocks.splitlines())]
    words = [found[1] for line in typed if (found := re.match(r"quantbench ([a-z]+)\b", line))]
    assert [word for word in words if word not in COMMANDS] == []


def test_a_name_that_does_not_exist_is_found() -> None:
    assert is_defined("bench.engines.Engine.refuses")
    assert is_defined("bench.plan.stages.VERSION")
    assert not is_defined("bench.engines.Engine.refuse")
    assert not is_defined("bench.plan.stage.plan")
    assert is_file("configs/quant/NAME.yaml")
    assert not is_file("configs/quants/NAME.yaml")
    assert not is_file("test_nothing_of_the_kind.py")
