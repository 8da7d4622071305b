"""What the benchmarks' data must be, and whether the data at hand is that. Loads no lm-eval and asks no hub.

What is known stands in ``bench/accuracy/benchmarks.toml``: repository, commit, licence, and for every leaf task (a
subject) the number of items and the SHA-256 of their content, in the order in which lm-eval scores them. The content
is hashed, not the files, so a mirror in Parquet, JSON lines or CSV has the same digests.
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
"""What a task is also called."""
PUNKT = "tokenizers/punkt_tab"
"""NLTK's sentence tables, in a folder of NLTK's data."""
SHOWN = 3
"""Problems that are told in full; the others are counted."""
DIGITS = 12
"""Hex digits of a digest that are shown."""


class Leaf(Frozen):
    """The data of one leaf task: its items, and the examples that a few-shot prompt takes its shots from."""

    items: int
    sha256: str | None = None
    """Of the items' content, see :func:`digest`; None where it is not known which fields count."""
    examples: int = 0
    examples_sha256: str | None = None


class Benchmark(Frozen):
    """One benchmark, as ``benchmarks.toml`` describes it."""

    title: str
    repo: str
    """Data set on the hub, and folder of a mirror."""
    revision: str
    """The commit that the digests belong to."""
    licence: str
    files: tuple[str, ...]
    """Globs over the repository's paths: what the task reads."""
    not_files: tuple[str, ...] = ()
    tasks_dir: str
    """Folder of lm-eval's tasks that defines the task, or an absolute path."""
    fields: tuple[str, ...]
    """Fields of an item that reach the model or decide its score; the others are not hashed."""
    nltk: bool = False
    """Whether scoring needs NLTK's sentence tables."""
    leaves: dict[str, Leaf]

    @property
    def items(self) -> int:
        """Items of all leaf tasks together."""
        return sum(leaf.items for leaf in self.leaves.values())


@functools.cache
def read(file: Path) -> dict[str, Benchmark]:
    """Return the benchmarks that a file describes, by lm-eval's name of the task."""
    return {name: Benchmark.model_validate(text) for name, text in tomllib.loads(file.read_text("utf-8")).items()}


def benchmarks() -> dict[str, Benchmark]:
    """Return what is known of each benchmark, by lm-eval's name of the task."""
    return read(FILE)


def benchmark_of_repo(repo: str) -> Benchmark | None:
    """Return the benchmark whose data lies in a repository; None for a repository of which nothing is known."""
    return next((known for known in benchmarks().values() if known.repo == repo), None)


def known_leaves() -> dict[str, tuple[Benchmark, Leaf]]:
    """Return what is known of each leaf task, by lm-eval's name of it, with its benchmark."""
    return {name: (known, leaf) for known in benchmarks().values() for name, leaf in known.leaves.items()}


def nltk_dir(hub_dir: Path | None) -> Path | None:
    """Return a mirror's folder of NLTK's data, to be named by ``NLTK_DATA``; None if it holds no sentence tables."""
    folder = hub_dir / "nltk_data" if hub_dir else None
    return folder if folder and (folder / PUNKT).is_dir() else None


def _without_none(value: Any) -> Any:
    """Return ``value`` without fields that are None: Parquet gives every record all fields of the column."""
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def digest(docs: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """Return the hex SHA-256 of the documents' content: one line of canonical JSON each, in order, of these fields.

    Raises:
        KeyError: a document lacks one of the fields.
    """
    hasher = hashlib.sha256()
    for doc in docs:
        hasher.update(canonical_json(_without_none({field: doc[field] for field in fields})).encode() + b"\n")
    return hasher.hexdigest()


def measure(task: Any, fields: Sequence[str] | None = None, *, examples: bool = False) -> Leaf:
    """Return what the data of a loaded leaf task is.

    Args:
        task: lm-eval's task object.
        fields: what to hash; None counts only.
        examples: whether to look at what few-shot prompts take their shots from.

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
    """Return in which ways the data of leaf task ``name`` is not what is known of it."""
    problems = []
    for what, counts, digests in (
        ("items", (loaded.items, known.items), (loaded.sha256, known.sha256)),
        ("few-shot examples", (loaded.examples, known.examples), (loaded.examples_sha256, known.examples_sha256)),
    ):
        if counts[0] != counts[1]:
            problems.append(f"{name}: {counts[0]} {what}, not {counts[1]}")
        elif digests[0] != digests[1]:
            shown = [(text or "none")[:DIGITS] for text in digests]
            problems.append(f"{name}: other {what} (sha256 {shown[0]}…, known is {shown[1]}…)")
    return problems


def verify_docs(task: str, loaded: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is wrong with the data that lm-eval has loaded for a task; nothing if it is as known.

    Counts and content are compared, of the items and of the few-shot examples: all of them, whatever the run's limit.
    Tasks of which nothing is known have no problems. About a second for the 14,042 items of MMLU.

    Args:
        task: name of the task or group that was asked for, e.g. ``mmlu``.
        loaded: lm-eval's objects of its leaf tasks by name, as in ``TaskManager.load([task])["tasks"]``.
    """
    wanted = benchmarks()[task].leaves if task in benchmarks() else {}
    problems = [f"{name}: missing" for name in wanted if name not in loaded]
    for name, (known, leaf) in known_leaves().items():
        if name not in loaded:
            continue
        try:
            measured = measure(loaded[name], known.fields, examples=leaf.examples > 0)
        except KeyError as error:
            problems.append(f"{name}: its items have no field {error}")
        else:
            problems += compare(name, leaf, measured)
    return tuple(sorted(problems))


def shorten(problems: Sequence[str]) -> str:
    """Return problems as one line: the first few in full, the others counted."""
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def refusal(task: str, problems: Sequence[str]) -> str:
    """Return the line for a task whose data has ``problems``, with what to type."""
    return (
        f"{task}: the data is not what is known of it: {shorten(problems)}; fetch it anew with quantbench mirror build "
        f"--tasks {task} --out DIR, or measure on it all the same with accuracy.verify_data=false"
    )
