"""Class names are unique, so that an import is unambiguous."""

import ast
from collections import defaultdict

from tests.support.paths import ROOT

OF_PLUG_INS = {"Config": "the name of the fields of every engine, method and source"}


def test_two_classes_never_share_a_name() -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for folder in ("bench", "quantize"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    files[node.name].append(file.relative_to(ROOT).as_posix())
    assert {name: of for name, of in files.items() if len(of) > 1 and name not in OF_PLUG_INS} == {}
