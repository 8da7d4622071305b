"""The pages on adding plug-ins list everything that a plug-in may define, and nothing else."""

import re

import pytest

from bench.engines import Engine
from bench.toolchains.toolchain import Toolchain
from quantize.method import Method
from quantize.source import Source
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
KINDS = {"adding-an-engine.md": Engine, "adding-a-quantization.md": Method, "adding-a-model.md": Source}
GIVEN = {"name", "kind", "config"}
"""Names that every plug-in has without defining them: its module's name, and its fields."""


def declared(kind: type) -> set[str]:
    """Return the public names that a base class declares."""
    own = {*vars(kind), *vars(kind)["__annotations__"]}
    return {name for name in own if not name.startswith(("_", "model_"))} - GIVEN


def in_first_column(page: str) -> set[str]:
    """Return the names in the first column of a page's tables of names and fields."""
    tables = re.findall(r"^\| (?:name|field) \|.*\n((?:\|.*\n)+)", (DOCS / page).read_text(), re.MULTILINE)
    cells = re.findall(r"^\| ([^|]+) \|", "".join(tables), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("page", KINDS)
def test_a_page_names_everything_that_a_plug_in_may_define(page: str) -> None:
    prose = set(re.findall(r"`(\w+)`", (DOCS / page).read_text()))
    assert declared(KINDS[page]) - prose == set()


def test_the_tables_name_only_what_is_declared() -> None:
    fields = set(Toolchain.model_fields)
    for page, kind in KINDS.items():
        assert in_first_column(page) - declared(kind) - fields == set(), page


def test_the_page_on_engines_names_every_field_of_a_toolchain() -> None:
    assert set(Toolchain.model_fields) - in_first_column("adding-an-engine.md") == {"name"}
