"""Judge a sample of mutants: killed by a test, equivalent according to the committed list, or survived."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import IO, Any, Literal

import pytest

from benchmarks.mutants.cover import Covering
from benchmarks.mutants.mutate import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
EQUIVALENT = Path(__file__).resolve().parent / "equivalent.toml"
PURE = {
    "bench/analysis": ("*",),
    "bench/limits": ("*",),
    "bench/plan": ("cells", "forecast", "parallelism", "placement", "stages", "table", "tasks"),
    "bench/speed": ("energy", "load", "memory", "metrics", "prompts", "shapes", "stream", "validity", "words"),
    "bench/speed/protocols": ("*",),
    "quantize": (
        "architecture", "checkpoint", "describe", "estimate", "folder", "formats", "hashes", "key", "native", "proof",
        "reader", "rows", "texts",
    ),
}  # fmt: skip
"""Modules that compute and decide. The others start processes, access servers or run a model."""
BUDGET_S = 60.0
"""Time for the tests of one mutant, measured on the original; the fastest tests run first."""
LIMIT = 10.0
"""Factor by which a mutant may slow its tests down before it counts as killed."""
LIMIT_S = 20.0
"""Additional time for the start of pytest."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a mutant."""

    mutant: Mutant
    outcome: Literal["killed", "equivalent", "survived"]
    reason: str


def pure_files() -> list[str]:
    """Return the modules to mutate, as paths from the root.

    Raises:
        FileNotFoundError: a module of the list does not exist.
    """
    paths: list[str] = []
    for folder, names in PURE.items():
        for name in names:
            files = sorted((ROOT / folder).glob(f"{name}.py"))
            if not files:
                raise FileNotFoundError(f"{folder}/{name}.py is in benchmarks.mutants.judge.PURE but does not exist")
            paths += [str(file.relative_to(ROOT)) for file in files]
    return paths


def population() -> list[Mutant]:
    """Return all mutants of the pure modules."""
    return [mutant for file in pure_files() for mutant in mutants(file, (ROOT / file).read_text())]


def sample(candidates: Sequence[Mutant], seed: int, n: int) -> list[Mutant]:
    """Return ``n`` of the mutants, depending on the seed but not on changes of other code."""
    return sorted(candidates, key=lambda each: each.rank(seed))[:n]


def equivalents() -> dict[tuple[str, str, str, str], str]:
    """Return the reasons of mutants that are shown to be equivalent, by the mutants' keys."""
    listed = tomllib.loads(EQUIVALENT.read_text())["equivalent"]
    return {(each["file"], each["function"], each["original"], each["mutated"]): each["reason"] for each in listed}


def copy_tree(to: Path) -> None:
    """Copy the files of the working tree that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


class Worker:
    """A process that runs tests in its own tree."""

    def __init__(self, tree: Path, data: Path) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.mutants.worker", str(data)],
            cwd=tree,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, mutant: Mutant | None, tests: list[str], seconds: float) -> dict[str, Any]:
        """Run tests on a mutant, or on the original, and return the result of `worker.fork`."""
        job = {
            "file": mutant.file if mutant else "",
            "source": mutant.source if mutant else "",
            "tests": tests,
            "stop": mutant is not None,
            "limit_s": math.ceil(LIMIT_S + LIMIT * seconds),
        }
        to, back = _pipes(self._process)
        print(json.dumps(job), file=to, flush=True)
        line = back.readline()
        if not line:
            raise RuntimeError("a process that runs tests on mutants has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _cause(answer: dict[str, Any]) -> str:
    """Return what killed a mutant.

    Raises:
        RuntimeError: its tests did not run.
    """
    code = answer["exit"]
    if code is None:
        return "the tests do not end"
    if answer["failed"]:
        return str(answer["failed"][0])
    if code < 0:
        return f"the tests end by {signal.Signals(-code).name}"
    if code in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR):
        return "the tests cannot be loaded"
    raise RuntimeError(f"pytest ended with code {code}, see {answer['log']}")


class _Judge:
    """Judges mutants, one at a time per worker."""

    def __init__(self, covering: Covering, workers: Sequence[Worker]) -> None:
        self.covering = covering
        self.reasons = equivalents()
        self.passing: dict[str, bool] = {}
        self.idle: Queue[Worker] = Queue()
        for worker in workers:
            self.idle.put(worker)

    def ask(self, mutant: Mutant | None, tests: list[str]) -> dict[str, Any]:
        worker = self.idle.get()
        try:
            return worker.ask(mutant, tests, sum(self.covering.seconds.get(test, 0.0) for test in tests))
        finally:
            self.idle.put(worker)

    def passes(self, test: str) -> bool:
        """Return whether a test passes on the original in a worker; otherwise it says nothing about a mutant."""
        if test not in self.passing:
            self.passing[test] = self.ask(None, [test])["exit"] == pytest.ExitCode.OK
        return self.passing[test]

    def verdict(self, mutant: Mutant) -> Verdict:
        if mutant.key in self.reasons:
            return Verdict(mutant, "equivalent", self.reasons[mutant.key])
        tests = self.covering.of(mutant, BUDGET_S)
        while tests := [test for test in tests if self.passing.get(test, True)]:
            answer = self.ask(mutant, tests)
            if answer["exit"] == pytest.ExitCode.USAGE_ERROR:  # a test's name contains a constant that was mutated
                answer = self.ask(mutant, list(dict.fromkeys(test.partition("::")[0] for test in tests)))
            if answer["exit"] == pytest.ExitCode.OK:
                return Verdict(mutant, "survived", f"{len(tests)} tests run the line and pass")
            if all(map(self.passes, answer["failed"])):
                return Verdict(mutant, "killed", _cause(answer))
            if not set(answer["failed"]) & set(tests):
                break  # a test of the same file also fails on the original
        return Verdict(mutant, "survived", "no test runs the line")


def judge(chosen: Sequence[Mutant], covering: Covering, workers: Sequence[Worker]) -> Iterator[Verdict]:
    """Judge mutants, as many at once as there are workers, and yield the verdicts in the order of the mutants."""
    with ThreadPoolExecutor(len(workers)) as threads:
        yield from threads.map(_Judge(covering, workers).verdict, chosen)
