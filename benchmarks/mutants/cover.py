"""Finds which tests run which lines, and how long each test takes.

One run of the tests under coverage, in a copy of the tree. Tests that build checkpoints, need a browser or must run
alone are left out: they take minutes, and most of the code that they test runs in other processes.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from coverage import CoverageData

from benchmarks.mutants.mutate import Mutant
from benchmarks.mutants.plugin import OUT

MARKS = "not model and not browser and not alone"
TEST_LIMIT_S = 20
"""A test that takes longer is not used."""


def run_tests(tree: Path, data: Path, processes: int) -> None:
    """Run the tests of ``tree`` under coverage and keep what they show in the folder ``data``.

    Tests that fail are left out of the judging.

    Raises:
        SystemExit: the tests did not run.
    """
    command = [
        sys.executable, "-m", "pytest", "-p", "benchmarks.mutants.plugin", "-p", "no:cacheprovider", "-m", MARKS,
        "--timeout", str(TEST_LIMIT_S), "--numprocesses", str(processes),
        "--cov=bench", "--cov=quantize", "--cov-context=test", "--cov-report=",
    ]  # fmt: skip
    environment = {**os.environ, "COVERAGE_FILE": str(data / "coverage"), OUT: str(data)}
    done = subprocess.run(command, cwd=tree, env=environment, check=False)
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        (data / "coverage").unlink(missing_ok=True)
        sys.exit(f"error: the run under coverage ended with code {done.returncode}: see the output above")


@dataclass(frozen=True)
class Covering:
    """Which tests run each line of each file."""

    tests: dict[str, dict[int, set[str]]]
    """Tests by file (from the tree's root) and line."""
    sources: dict[str, list[str]]
    """The lines of each file."""
    seconds: dict[str, float]
    """What each test takes."""

    def of(self, mutant: Mutant, budget_s: float) -> list[str]:
        """Return the tests that may notice a mutant, the quickest first, for at most ``budget_s`` but one test.

        A line within a function is noticed by tests that run it. A line that runs on import, such as a constant or a
        field, is noticed by tests that run a line where its name is written, in any module.
        """
        found = self._on(mutant.file, mutant.lines)
        if mutant.names:
            named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in mutant.names))
            for file, lines in self.sources.items():
                found |= self._on(file, (number for number, line in enumerate(lines, 1) if named.search(line)))
        chosen: list[str] = []
        for test in sorted(found, key=lambda each: (self.seconds[each], each)):
            if chosen and budget_s < self.seconds[test]:
                break
            budget_s -= self.seconds[test]
            chosen.append(test)
        return chosen

    def _on(self, file: str, lines: Iterable[int]) -> set[str]:
        known = self.tests.get(file, {})
        return set().union(*(known.get(line, set()) for line in lines))


def read(tree: Path, data: Path) -> Covering:
    """Return what ``run_tests`` has kept of ``tree``, or of another copy."""
    seconds: dict[str, float] = json.loads((data / "tests-main.json").read_text())
    by_file: dict[str, set[str]] = defaultdict(set)
    for test in seconds:
        by_file[test.partition("::")[0]].add(test)
    coverage = CoverageData(str(data / "coverage"))
    coverage.read()
    tests: dict[str, dict[int, set[str]]] = {}
    sources: dict[str, list[str]] = {}
    for file in coverage.measured_files():
        sources[file] = (tree / file).read_text().splitlines()
        tests[file] = {
            line: _tests(contexts, by_file) & seconds.keys()
            for line, contexts in coverage.contexts_by_lineno(file).items()
        }
    return Covering(tests, sources, seconds)


def _tests(contexts: Sequence[str], by_file: dict[str, set[str]]) -> set[str]:
    """Return the tests of contexts such as ``tests/test_x.py::test_y|run``.

    What runs while a fixture is made may be looked at by any test of the file: the fixture may serve all of them.
    """
    found: set[str] = set()
    for context in contexts:
        test, _, phase = context.rpartition("|")
        found |= {test} if phase == "run" else by_file[test.partition("::")[0]]
    return found
