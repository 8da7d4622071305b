"""Find which tests run which lines, and how long each test takes.

The tests run once under coverage, in a copy of the tree. Tests that build checkpoints, need a browser or must run alone
are left out: they take minutes, and most of the code that they test runs in other processes.
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

MARKS = "not long and not browser and not alone"
TEST_LIMIT_S = 20
"""Longest duration of a test; slower ones are not used."""


def run_tests(tree: Path, data: Path, processes: int) -> None:
    """Run the tests of ``tree`` under coverage and store the results in the folder ``data``.

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
    """Duration of each test."""

    def of(self, mutant: Mutant, budget_s: float) -> list[str]:
        """Return the tests that may detect a mutant, fastest first, for up to ``budget_s`` but at least one test.

        Tests that run a line in a function may detect its mutants. For a line that runs on import, such as a constant
        or a field, these are the tests that run a line with its name, in any module.
        """
        tests = self._on(mutant.file, mutant.lines)
        if mutant.names:
            mention = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in mutant.names))
            for file, lines in self.sources.items():
                tests |= self._on(file, (number for number, line in enumerate(lines, 1) if mention.search(line)))
        chosen: list[str] = []
        for test in sorted(tests, key=lambda each: (self.seconds[each], each)):
            if chosen and budget_s < self.seconds[test]:
                break
            budget_s -= self.seconds[test]
            chosen.append(test)
        return chosen

    def _on(self, file: str, lines: Iterable[int]) -> set[str]:
        by_line = self.tests.get(file, {})
        return set().union(*(by_line.get(line, set()) for line in lines))


def read(tree: Path, data: Path) -> Covering:
    """Return the results that ``run_tests`` stored for ``tree``, or for another copy of it."""
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

    Lines that run during a fixture's setup count for all tests of the file, because they may share the fixture.
    """
    tests: set[str] = set()
    for context in contexts:
        test, _, phase = context.rpartition("|")
        tests |= {test} if phase == "run" else by_file[test.partition("::")[0]]
    return tests
