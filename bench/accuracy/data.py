"""Verify the benchmarks' data. Neither imports lm-eval nor accesses the hub.

``bench/accuracy/benchmarks.toml`` lists each benchmark's repository, commit and licence, and for every leaf task (a
subject) the number of items and the SHA-256 of their content, in the order in which lm-eval scores them. The content
is hashed instead of the files, so a mirror in Parquet, JSON lines or CSV has the same digests.
"""

import functools
import hashlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantize.key import Frozen, canonical_json

FILE = Path(__file__).resolve().parent / "benchmarks.toml"
ALIASES = {"ceval": "ceval-valid"}
"""Other names of tasks."""
PUNKT = "tokenizers/punkt_tab"
"""Path of NLTK's sentence tables in a folder of NLTK's data."""
SHOWN = 3
"""Problems that are listed in full; the others are counted."""
DIGITS = 12
"""Hex digits of a digest in messages."""


class Leaf(Frozen):
    """The data of one leaf task: its items, and the examples for few-shot prompts."""

    items: int
    sha256: str | None = None
    """SHA-256 of the items' content, see :func:`digest`; None where the relevant fields are unknown."""
    examples: int = 0
    examples_sha256: str | None = None


class Benchmark(Frozen):
    """One benchmark of ``benchmarks.toml``."""

    title: str
    repo: str
    """Data set on the hub, and folder of a mirror."""
    revision: str
    """The commit that the digests belong to."""
    licence: str
    files: tuple[str, ...]
    """Globs over the repository's paths: the files that the task reads."""
    not_files: tuple[str, ...] = ()
    tasks_dir: str
    """Folder of lm-eval's tasks that defines the task, or an absolute path."""
    fields: tuple[str, ...]
    """Fields of an item that reach the model or affect its score; others are not hashed."""
    nltk: bool = False
    """Whether scoring needs NLTK's sentence tables."""
    leaves: dict[str, Leaf]

    @property
    def items(self) -> int:
        """Number of items of all leaf tasks."""
        return sum(leaf.items for leaf in self.leaves.values())


@functools.cache
def read(file: Path) -> dict[str, Benchmark]:
    """Return the benchmarks of a file by lm-eval's task name."""
    return {name: Benchmark.model_validate(text) for name, text in tomllib.loads(file.read_text("utf-8")).items()}


def benchmarks() -> dict[str, Benchmark]:
    """Return all known benchmarks by lm-eval's task name."""
    return read(FILE)


def benchmark_of_repo(repo: str) -> Benchmark | None:
    """Return the benchmark whose data is in a repository; None for an unknown repository."""
    return next((benchmark for benchmark in benchmarks().values() if benchmark.repo == repo), None)


def known_leaves() -> dict[str, tuple[Benchmark, Leaf]]:
    """Return all known leaf tasks by lm-eval's task name, with their benchmarks."""
    return {name: (benchmark, leaf) for benchmark in benchmarks().values() for name, leaf in benchmark.leaves.items()}


def nltk_dir(hub_dir: Path | None) -> Path | None:
    """Return a mirror's folder of NLTK's data for ``NLTK_DATA``; None if it has no sentence tables."""
    folder = hub_dir / "nltk_data" if hub_dir else None
    return folder if folder and (folder / PUNKT).is_dir() else None


def _without_none(value: Any) -> Any:
    """Return ``value`` without fields that are None, because Parquet adds all fields of a column to every record."""
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def digest(docs: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """Return the hex SHA-256 of the documents' content: one line of canonical JSON per document, with these fields.

    Raises:
        KeyError: a document lacks one of the fields.
    """
    hasher = hashlib.sha256()
    for doc in docs:
        hasher.update(canonical_json(_without_none({field: doc[field] for field in fields})).encode() + b"\n")
    return hasher.hexdigest()


def measure(task: Any, fields: Sequence[str] | None = None, *, examples: bool = False) -> Leaf:
    """Return counts and digests of the data of a loaded leaf task.

    Args:
        task: lm-eval's task object.
        fields: the fields to hash; None only counts.
        examples: whether to include the examples for few-shot prompts.

    Raises:
        KeyError: an item lacks one of the fields.
    """
    shots = task.fewshot_docs() if examples else ()
    return Leaf(
        items=len(task.eval_docs),
        sha256=digest(task.eval_docs, fields) if fields else None,
        examples=len(shots),
        examples_sha256=digest(shots, fields) if fields and examples else None,
    )


def compare(name: str, known: Leaf, loaded: Leaf) -> list[str]:
    """Return how the data of leaf task ``name`` differs from the known data."""
    problems = []
    for what, counts, digests in (
        ("items", (loaded.items, known.items), (loaded.sha256, known.sha256)),
        ("few-shot examples", (loaded.examples, known.examples), (loaded.examples_sha256, known.examples_sha256)),
    ):
        if counts[0] != counts[1]:
            problems.append(f"{name}: {counts[0]} {what}, not {counts[1]}")
        elif digests[0] != digests[1]:
            short = [(text or "none")[:DIGITS] for text in digests]
            problems.append(f"{name}: different {what} (sha256 {short[0]}…, expected {short[1]}…)")
    return problems


def verify_docs(task: str, loaded: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the problems of the data that lm-eval has loaded for a task; empty if it is as known.

    Compares the number and content of all items and few-shot examples, even if the run has a limit. Unknown tasks have
    no problems. Takes about a second for the 14,042 items of MMLU.

    Args:
        task: name of the requested task or group, e.g. ``mmlu``.
        loaded: lm-eval's objects of its leaf tasks by name, as in ``TaskManager.load([task])["tasks"]``.
    """
    leaves = benchmarks()[task].leaves if task in benchmarks() else {}
    problems = [f"{name}: missing" for name in leaves if name not in loaded]
    for name, (benchmark, leaf) in known_leaves().items():
        if name not in loaded:
            continue
        try:
            measured = measure(loaded[name], benchmark.fields, examples=leaf.examples > 0)
        except KeyError as error:
            problems.append(f"{name}: its items have no field {error}")
        else:
            problems += compare(name, leaf, measured)
    return tuple(sorted(problems))


def shorten(problems: Sequence[str]) -> str:
    """Return problems as one line: the first few in full, and the number of others."""
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def refusal(task: str, problems: Sequence[str]) -> str:
    """Return the error message for a task whose data has ``problems``, with what to type."""
    return (
        f"{task}: the data differs from the known data: {shorten(problems)}; fetch it again with quantbench mirror "
        f"build --tasks {task} --out DIR, or use it anyway with accuracy.verify_data=false"
    )
