"""Check that lm-eval reads the known data of the benchmarks from a mirror.

``python -m bench.accuracy.mirror.check FOLDER``, started by :func:`measure`, is a separate process, because lm-eval
reads its data relative to the working directory and must be kept offline. It loads the tasks as an evaluation does,
from the files and not from a cache, and writes the counts and digests of their data.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.accuracy import data
from bench.accuracy.data import Benchmark, Leaf
from bench.accuracy.tasks import environment
from bench.console import Stage, View
from bench.errors import AccuracyError
from bench.files import write_atomic
from bench.machine.child import POLL_S, Child
from bench.toolchains.toolchain import interpreter_for
from quantize.key import Frozen
from quantize.parent import end_with_parent

ERROR_CHARS = 300
"""Characters of a library's error message that are kept, because some contain long lists."""
REQUEST, RESULT, PROGRESS = "request.json", "result.json", "progress"
NEEDS_PUNKT = "NLTK's punkt_tab is missing: pip install --no-deps llama-index-core, or set NLTK_DATA"


class LoadJob(Frozen):
    """One task to load."""

    task: str
    names: tuple[str, ...]
    """The names to load, one after the other: known leaf tasks, so that each reports its own problem."""
    tasks_dir: str | None
    """Folder of its yaml files; None for all of lm-eval's."""
    nltk: bool


class LeafQuery(Frozen):
    """What to read of a leaf task's data."""

    fields: tuple[str, ...] | None = None
    examples: bool = False


class Request(Frozen):
    """The input of the process."""

    jobs: tuple[LoadJob, ...]
    leaves: dict[str, LeafQuery]


class LoadedTask(Frozen):
    """The data that was loaded for one task."""

    leaves: dict[str, Leaf]
    errors: dict[str, str]
    """Errors of loading, by name."""


def benchmark_of(task: str) -> Benchmark | None:
    """Return the benchmark of a task or leaf task; None for an unknown task."""
    leaf = data.known_leaves().get(task)
    return data.benchmarks().get(task) or (leaf[0] if leaf else None)


def _job(task: str) -> LoadJob:
    benchmark = benchmark_of(task)
    if benchmark is None:
        return LoadJob(task=task, names=(task,), tasks_dir=None, nltk=False)
    names = tuple(benchmark.leaves) if task in data.benchmarks() else (task,)
    return LoadJob(task=task, names=names, tasks_dir=benchmark.tasks_dir, nltk=benchmark.nltk)


def measure(hub_dir: Path, tasks: Sequence[str], view: View) -> dict[str, LoadedTask]:
    """Return what lm-eval reads for each task in a mirror.

    Raises:
        ToolchainError: lm-eval is not installed.
        AccuracyError: the process that loads the tasks died.
    """
    interpreter = interpreter_for(("lm_eval", "datasets"), "quantbench mirror")
    with tempfile.TemporaryDirectory(prefix="quantbench-mirror-") as work, view.stage("verifying") as line:
        folder = Path(work)
        request = Request(
            jobs=tuple(_job(task) for task in tasks),
            leaves={
                name: LeafQuery(fields=benchmark.fields, examples=leaf.examples > 0)
                for name, (benchmark, leaf) in data.known_leaves().items()
            },
        )
        write_atomic(folder / REQUEST, request.model_dump_json())
        tables = data.nltk_dir(hub_dir)
        env = {
            **environment(hub_dir, None),
            **({"NLTK_DATA": str(tables)} if tables else {}),
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        }
        argv = [interpreter, "-m", "bench.accuracy.mirror.check", work]
        with Child(argv, what="mirror", log_file=folder / "log", env=env, cwd=hub_dir) as child:
            while child.exit_code is None:
                _show(folder / PROGRESS, line)
                child.wait(POLL_S)
            if not (folder / RESULT).exists():
                raise AccuracyError(f"the data in {hub_dir} could not be loaded: {child.log_tail()}")
        results = json.loads((folder / RESULT).read_bytes())
    return {task: LoadedTask.model_validate(loaded) for task, loaded in results.items()}


def _show(progress: Path, line: Stage) -> None:
    """Show how many leaf tasks have been loaded."""
    if progress.exists():
        done, total = map(int, progress.read_text().split())
        line.update(done=done, total=total)
    else:
        line.update()


def problems_of(loaded: LoadedTask) -> list[str]:
    """Return how the loaded data differs from the known data."""
    problems = [f"{name}: cannot be loaded ({error})" for name, error in loaded.errors.items()]
    known_leaves = data.known_leaves()
    for name, leaf in loaded.leaves.items():
        if name in known_leaves:
            problems += data.compare(name, known_leaves[name][1], leaf)
    return problems


def _load(names: Sequence[str], manager: Any, queries: Mapping[str, LeafQuery]) -> Iterator[LoadedTask]:
    """Load the named tasks, one after the other, and yield the data of each."""
    for name in names:
        leaves = {}
        try:
            for leaf, task in manager.load([name])["tasks"].items():
                query = queries.get(leaf, LeafQuery())
                leaves[leaf] = data.measure(task, query.fields, examples=query.examples)
        except Exception as error:  # noqa: BLE001 - damaged files can make the libraries raise anything
            text = " ".join(str(error).split())[:ERROR_CHARS]
            yield LoadedTask(leaves={}, errors={name: f"{type(error).__name__}: {text}"})
        else:
            yield LoadedTask(leaves=leaves, errors={})


def _lacks_punkt() -> bool:
    import nltk

    try:
        nltk.data.find(f"{data.PUNKT}/english")
    except LookupError:
        return True
    return False


def main(argv: list[str]) -> int:
    """Run the jobs in the folder named by the only argument, and write the result there."""
    end_with_parent()
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(argv[0])
    yaml_dir = Path(lm_eval.__file__).parent / "tasks"
    request = Request.model_validate_json((folder / REQUEST).read_bytes())
    done, total = 0, sum(len(job.names) for job in request.jobs)
    results: dict[str, LoadedTask] = {}
    for job in request.jobs:
        own = {"include_defaults": False, "include_path": str(yaml_dir / job.tasks_dir)} if job.tasks_dir else {}
        leaves: dict[str, Leaf] = {}
        errors = {"nltk": NEEDS_PUNKT} if job.nltk and _lacks_punkt() else {}
        for loaded in _load(job.names, TaskManager(**own), request.leaves):
            leaves |= loaded.leaves
            errors |= loaded.errors
            done += 1
            write_atomic(folder / PROGRESS, f"{done} {total}")
        results[job.task] = LoadedTask(leaves=leaves, errors=errors)
    write_atomic(folder / RESULT, json.dumps({task: loaded.model_dump() for task, loaded in results.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
