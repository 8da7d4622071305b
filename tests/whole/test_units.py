"""Every float field has its unit in its name, or a docstring that explains why it has none."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

UNIT = re.compile(r"(^|_)(s|ms|ns|bytes|tokens|bits|flops|j|w|celsius|mhz|gb|nats|pp)$|_per_[a-z_]+$")
"""Endings of names with a unit."""
WITHOUT = re.compile(
    r"\b(shares?|ratios?|of 1|0 to 1|p(robability)?( value)?|log-probability|without unit|standard deviations?"
    r"|degrees of freedom|in the unit of)\b",
    re.IGNORECASE,
)
"""Words in the docstring of a figure without a unit, or with another figure's unit."""
OF_CLASS = re.compile(r"\b(in the unit of|shares of 1|0 to 1|own names)\b", re.IGNORECASE)
"""The same in the docstring of a class, for all its fields."""
FLOAT = re.compile(r"\b(float|PositiveFloat|NonNegativeFloat|StrictFloat)\b")


def _has_float(annotation: ast.expr, aliases: frozenset[str]) -> bool:
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return bool(FLOAT.search(" ".join(names)) or names & aliases)


def _aliases(tree: ast.Module) -> frozenset[str]:
    """Return the module's aliases of float types, such as ``Rate``."""
    return frozenset(
        node.targets[0].id
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Subscript)
        and _has_float(node.value, frozenset())
    )


def _silent(tree: ast.Module) -> Iterator[str]:
    """Yield the float fields without a unit or an explanation."""
    aliases = _aliases(tree)
    for kind in ast.walk(tree):
        if not isinstance(kind, ast.ClassDef):
            continue
        for place, node in enumerate(kind.body):
            if isinstance(node, ast.AnnAssign) and _has_float(node.annotation, aliases):
                after = kind.body[place + 1 : place + 2]
                says = after[0].value if after and isinstance(after[0], ast.Expr) else None
                words = str(says.value) if isinstance(says, ast.Constant) else ""
                name = ast.unparse(node.target)
                if not (UNIT.search(name) or WITHOUT.search(words) or OF_CLASS.search(ast.get_docstring(kind) or "")):
                    yield f"{kind.name}.{name}"


def _files() -> list[Path]:
    return sorted(file for folder in ("bench", "quantize") for file in (ROOT / folder).rglob("*.py"))


def test_every_float_field_has_a_unit_in_its_name_or_an_explanation() -> None:
    silent = [
        f"{file.relative_to(ROOT)}: {field}" for file in _files() for field in _silent(ast.parse(file.read_text()))
    ]
    assert not silent, "\n".join(silent)


def test_a_field_without_unit_and_explanation_is_found() -> None:
    code = (
        "Rate = Annotated[float, Field(gt=0)]\n"
        "class A:\n    a: float\n    b_s: float\n    c: int\n    d: Rate | None\n    e: float\n    'A share.'\n"
        "class B:\n    'Shares of 1.'\n    f: float\nclass C:\n    'A share.'\n    g: dict[str, float]\n"
    )
    assert list(_silent(ast.parse(code))) == ["A.a", "A.d", "C.g"]


def test_seconds_are_s_in_the_names_of_constants() -> None:
    """``TERM_S``, like ``duration_s``."""
    for file in _files():
        assert not re.search(r"^[A-Z_]+_SECONDS\b", file.read_text(), re.MULTILINE), file
