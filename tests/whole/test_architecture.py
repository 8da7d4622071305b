"""docs/architecture.md is up to date: floors of the wings, their sentences, and the functions on three paths."""

import importlib.util
import re
from types import ModuleType

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"
AGAIN = "run python docs/draw_architecture.py"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """Return the script that draws the page."""
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_and_the_table_of_wings_are_up_to_date(drawing: ModuleType) -> None:
    assert drawing.PAGE.read_text() == drawing.page(), AGAIN
    assert drawing.PICTURE.read_text() == drawing.picture(), AGAIN


def test_every_wing_has_a_floor_and_one_sentence(drawing: ModuleType) -> None:
    wings = [wing for floor in drawing.floors() for wing in floor]
    modules = {file.stem for file in (ROOT / "bench").glob("[a-z]*.py")}
    folders = {file.parent.name for file in (ROOT / "bench").glob("*/__init__.py")}
    assert sorted(wings) == sorted([*modules, *folders, "quantize"])
    for wing in wings:
        text = drawing.sentence(wing)
        assert re.fullmatch(r"[A-Z`].{20,119}", text), f"{wing}: {text}"
        assert text.endswith((".", "`")), f"{wing}: {text}"


def test_three_paths_lead_through_the_wings(drawing: ModuleType) -> None:
    """Another test checks that the functions on all pages exist."""
    routes = drawing.routes()
    assert [heading.partition(",")[0] for heading in routes] == [
        "One input length",
        "One scheme name",
        "One log-probability",
    ]
    for steps in routes.values():
        assert len(steps) > 10
        assert len({drawing.floor_of(step) for step in steps}) > 3


def test_the_table_of_changes_has_25_rows_with_files() -> None:
    """Another test checks that the files on all pages exist."""
    [table] = re.findall(r"^\| to change \| open \|\n.*\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    rows = table.splitlines()
    assert len(rows) == 25
    assert all(re.search(r"`(bench|quantize)/[\w/.]+\.(py|toml)`", row) for row in rows)
