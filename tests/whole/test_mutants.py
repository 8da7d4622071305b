"""The mutation tool: its changes, the tests that it selects, and how it counts their results."""

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.mutants.__main__ import share, table
from benchmarks.mutants.cover import Covering
from benchmarks.mutants.judge import EQUIVALENT, Worker, equivalents, judge, population, sample
from benchmarks.mutants.mutate import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]


def lines(source: str) -> list[str]:
    """Return the mutated lines of a module."""
    return [mutant.mutated for mutant in mutants("m.py", source)]


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("x = a + b", ["x = a - b"]),
        ("x = (a) // (b)", ["x = (a) * (b)"]),
        ("x **= y", ["x *= y"]),
        ("x = a < b", ["x = a <= b", "x = a >= b"]),
        ("x = a is not b", ["x = a is b"]),
        ("x = a not in b", ["x = a in b"]),
        ("x = a <= b < c", ["x = a < b < c", "x = a > b < c", "x = a <= b <= c", "x = a <= b >= c"]),
        ("x = a and b and c", ["x = a or b and c", "x = a and b or c"]),
        ("x = not (a)", ["x = (a)"]),
        ("x = -a", ["x = +a"]),
        ("x = y[1:]", ["x = y[0:]", "x = y[2:]"]),
        ("x = 0.9", ["x = 0.45"]),
        ("x = 0.0", ["x = 1.0"]),
        ("x = True", ["x = False"]),
        ("x = max(a, b)", ["x = min(a, b)"]),
        ("x = a if b else c", ["x = a if not (b) else c"]),
        ("x = [a for a in b if a]", ["x = [a for a in b if not (a)]"]),
        ('x = "é", "ü", a < b', ['x = "é", "ü", a <= b', 'x = "é", "ü", a >= b']),
    ],
)
def test_one_operator_comparison_condition_or_constant_changes(line: str, changed: list[str]) -> None:
    assert lines(f"{line}\n") == changed


@pytest.mark.parametrize(
    "source",
    [
        '"""Of 2 + 2."""\n',
        "x: int | None\n",
        "def f(x: Literal[1]) -> Literal[2]: ...\n",
        "assert x > 1\n",
        "x = zip(a, b, strict=True)\n",
        'x = "a" + b\n',
        "X = int | None\n",
        "if TYPE_CHECKING:\n    x = 1\n",
    ],
)
def test_code_without_effect_on_behaviour_is_not_mutated(source: str) -> None:
    assert lines(source) == []


def test_a_mutant_is_identified_by_function_and_line_and_not_by_position() -> None:
    source = "class A:\n    def f(self):\n        return 1\n"
    moved = "import os\n\n\n" + source
    first, other = list(mutants("m.py", source)), list(mutants("m.py", moved))
    assert [each.key for each in first] == [each.key for each in other]
    assert first[0].key == ("m.py", "A.f", "return 1", "return 0")
    assert first[0].rank(1) == other[0].rank(1) != first[0].rank(2)
    assert (first[0].lines, other[0].lines) == ((3,), (6,))


def test_a_default_is_covered_by_the_tests_of_its_function() -> None:
    default, *_ = mutants("m.py", "def f(n=1):\n    n += 1\n    return n\n")
    assert (default.mutated, default.lines) == ("def f(n=0):", (1, 2, 3))


def test_every_mutant_of_a_real_module_is_a_module_that_differs_in_one_line() -> None:
    source = (ROOT / "bench/analysis/knee.py").read_text()
    changes = list(mutants("bench/analysis/knee.py", source))
    assert len(changes) > 20
    for mutant in changes:
        compile(mutant.source, mutant.file, "exec")
        changed = zip(source.splitlines(), mutant.source.splitlines(), strict=True)
        assert [(old.strip(), new.strip()) for old, new in changed if old != new] == [mutant.key[2:]]


def test_a_sample_does_not_change_with_code_added_elsewhere() -> None:
    many = [*mutants("a.py", "".join(f"x{n} = {n}\n" for n in range(100)))]
    more = [*many, *mutants("b.py", "y = 7\n")]
    chosen, again = sample(many, 5, 50), sample(more, 5, 50)
    assert len({mutant.key for mutant in chosen}) == 50
    assert len(set(chosen) - set(again)) <= 2
    assert chosen != sample(many, 6, 50)


def test_the_pure_modules_have_enough_mutants_for_a_sample() -> None:
    everything = population()
    files = {mutant.file for mutant in everything}
    assert {"bench/analysis/paired.py", "bench/limits/roofline.py", "quantize/formats.py"} <= files
    assert len(everything) > 2000


def test_each_equivalent_mutant_has_its_reason() -> None:
    assert all(len(reason.split()) > 3 for reason in equivalents().values()), EQUIVALENT


def mutant_of(source: str, original: str) -> Mutant:
    return next(mutant for mutant in mutants("m.py", source) if mutant.original == original)


def test_the_tests_of_a_line_run_fastest_first_within_the_budget() -> None:
    source = "LIMIT = 3\n\n\ndef f(x):\n    return x + 1\n\n\ndef g(x):\n    return x < LIMIT\n"
    covering = Covering(
        tests={"m.py": {5: {"slow", "quick", "endless"}, 9: {"other"}}},
        sources={"m.py": source.splitlines()},
        seconds={"slow": 5.0, "quick": 1.0, "endless": 50.0, "other": 1.0},
    )
    assert covering.of(mutant_of(source, "return x + 1"), budget_s=10.0) == ["quick", "slow"]
    assert covering.of(mutant_of(source, "return x + 1"), budget_s=0.5) == ["quick"]
    # A constant is defined on import: it is covered by tests that run a line with its name.
    assert covering.of(mutant_of(source, "LIMIT = 3"), budget_s=10.0) == ["other"]


MODULE = """def grade(x):
    if x > 5:
        return 1
    return 0


def drop(n):
    while n > 0:
        n -= 1
    return n
"""
TESTS = """import pytest
from m import drop, grade


def test_grade():
    assert grade(9) == 1
    assert grade(1) == 0


def test_drop():
    assert drop(3) == 0


def test_broken():
    assert grade(9) == 2
"""


def test_mutants_are_killed_by_the_tests_that_run_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.py").write_text(MODULE)
    (tmp_path / "test_m.py").write_text(TESTS)
    (tmp_path / "modules-main.json").write_text(json.dumps(["decimal"]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setattr("benchmarks.mutants.judge.LIMIT_S", 2.0)
    grade, drop = {"test_m.py::test_grade", "test_m.py::test_broken"}, {"test_m.py::test_drop"}
    covering = Covering(
        tests={"m.py": {2: grade, 3: grade, 8: drop, 9: drop}},
        sources={},
        seconds=dict.fromkeys(grade | drop, 0.01),
    )
    chosen = {mutant.mutated: mutant for mutant in mutants("m.py", MODULE)}
    wanted = ["if x <= 5:", "if x >= 5:", "n += 1", "return 2", "return -1"]
    worker = Worker(tmp_path, tmp_path)
    verdicts = list(judge([chosen[line] for line in wanted], covering, [worker]))
    worker.close()
    assert [(verdict.outcome, verdict.reason) for verdict in verdicts] == [
        ("killed", "test_m.py::test_grade"),
        ("survived", "1 tests run the line and pass"),
        ("killed", "the tests do not end"),
        ("killed", "test_m.py::test_grade"),
        ("survived", "no test runs the line"),
    ]
    assert (tmp_path / "m.py").read_text() == MODULE
    assert share(verdicts) == pytest.approx(3 / 5)
    assert "| **all** | 5 | 3 | 0 | 2 | 60.0% |" in table(verdicts, 100, 1, 2.0)
