"""Tests mirror the modules that they test, and import only helpers."""

import ast
import re
from pathlib import Path

from tests.support.paths import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("test_*.py"))
PRODUCT = ("bench", "quantize")
LONGEST_NAME, MOST_LINES = 80, 500
WITHOUT_A_WING = {"contract": "the requests that every server has to answer alike", "whole": "whole runs and the docs"}
TOPICS = {
    "accuracy/test_thinking.py": "a reasoning answer passes through asking, served_lm, tasks and evaluate",
    "analysis/test_coverage.py": "simulations of difference and paired on benchmarks of real sizes",
    "config/test_context.py": "one setting reaches every engine, the server and the record",
    "config/test_models.py": "the configs of models, compared with transformers and the hub",
    "config/test_modes.py": "one setting reaches the protocols, the sampling and the report",
    "report/test_browser.py": "what a browser makes of the whole page: layout and colours",
    "report/test_lang.py": "every page in every language: no text is left out of the catalogues",
    "report/test_use.py": "what a reader does with the whole page: keyboard, print, scripts",
    "servers/test_reference_parts.py": "model, cache and texts of the reference server without HTTP",
}
"""Files named after a topic of several modules, with the reason."""


def name_of(file: Path) -> str:
    return file.relative_to(TESTS).as_posix()


def modules_of(folder: Path) -> set[str]:
    """Return the names of all modules and packages under a folder."""
    files = [file.relative_to(folder) for file in folder.rglob("*.py")]
    return {part.removesuffix(".py") for file in files for part in file.parts}


def wings() -> dict[str, Path]:
    """Return the folder of each wing; the name of a test's folder is the wing's."""
    folders = {folder.parent.name: folder.parent for folder in (ROOT / "bench").glob("*/__init__.py")}
    return {**folders, "quantize": ROOT / "quantize"}


def imports_of(file: Path) -> set[str]:
    """Return the modules that a file imports, and the dotted names that it imports from them."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def importers(folder: str, *packages: str) -> dict[str, list[str]]:
    """Return the imports from packages in the files of a folder, by file."""
    imports = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        names = sorted(name for name in imports_of(file) if name.partition(".")[0] in packages)
        if names:
            imports[file.relative_to(ROOT).as_posix()] = names
    return imports


def misplaced(file: Path) -> str | None:
    """Return what is wrong with a test file's path."""
    *folders, module = file.relative_to(TESTS).with_suffix("").parts
    module = module.removeprefix("test_")
    if len(folders) > 1:
        return "in a folder of a wing"
    if folders and folders[0] in WITHOUT_A_WING:
        return None
    if folders and folders[0] not in wings():
        return f"no wing {folders[0]}"
    known = modules_of(wings()[folders[0]]) if folders else {top.stem for top in (ROOT / "bench").glob("*.py")}
    if name_of(file) in TOPICS:
        return "listed as a topic, and there is a module of its name" if module in known else None
    return None if module in known else f"no module {module}"


def test_a_test_file_has_the_wing_and_the_name_of_its_module() -> None:
    assert {name_of(file): misplaced(file) for file in FILES if misplaced(file)} == {}


def test_every_listed_topic_is_a_file() -> None:
    assert set(TOPICS) - {name_of(file) for file in FILES} == set()


def test_every_folder_of_tests_is_a_package() -> None:
    """Two folders may have files of the same name, which pytest distinguishes by package."""
    assert {name_of(file) for file in FILES if not (file.parent / "__init__.py").exists()} == set()


def test_nothing_imports_a_test_file() -> None:
    for file, names in importers("tests", "tests").items():
        imported = [name for name in names if re.search(r"\.(test_\w+|conftest)\b", name)]
        assert imported == [], f"{file}: move what it needs to tests/support"


def test_benchmarks_import_nothing_from_the_tests() -> None:
    assert importers("benchmarks", "tests") == {}
    assert importers("testkit", "tests", "benchmarks") == {}
    assert [importers(folder, "tests", "testkit", "benchmarks") for folder in PRODUCT] == [{}, {}]


def test_the_testkit_has_only_what_benchmarks_need() -> None:
    modules = {f"testkit.{file.stem}": file for file in (ROOT / "testkit").glob("*.py") if file.stem != "__init__"}
    needed = {name for names in importers("benchmarks", "testkit").values() for name in names} & modules.keys()
    for _ in modules:
        needed |= {name for module in needed for name in imports_of(modules[module])} & modules.keys()
    assert set(modules) - needed == set(), "move it to tests/support"


def test_no_test_file_is_long() -> None:
    lines = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert {file: n for file, n in lines.items() if n > MOST_LINES} == {}


def test_no_name_of_a_test_is_long() -> None:
    names = re.findall(r"^(?:async )?def (test_\w+)", "\n".join(file.read_text() for file in FILES), re.MULTILINE)
    assert len(names) > len(FILES)
    assert [name for name in names if len(name) > LONGEST_NAME] == []


def test_every_test_file_that_is_named_in_a_string_exists() -> None:
    for file in (*TESTS.rglob("*.py"), ROOT / "Makefile", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for name in re.findall(r"(?:tests|testkit)/[\w/]+\.py\b", file.read_text()):
            assert (ROOT / name).is_file(), f"{file.relative_to(ROOT)} names {name}"
