"""Find the data sets on the hub that tasks read."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.accuracy import data
from bench.accuracy import tasks as accuracy_tasks
from bench.accuracy.mirror.check import benchmark_of
from bench.errors import ConfigError
from quantize.key import Frozen

LOCAL_FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""Names in a task's yaml that are kinds of files, not data sets."""


class HubDataset(Frozen):
    """A data set to fetch."""

    repo: str
    revision: str = "main"
    files: tuple[str, ...] | None = None
    """Globs; None for all files of the repository."""
    not_files: tuple[str, ...] = (".gitattributes",)
    licence: str | None = None
    nltk: bool = False


def source_of(repo: str) -> HubDataset:
    """Return what to fetch of a repository: for a known one the task's files, at its commit; otherwise all files."""
    benchmark = data.benchmark_of_repo(repo)
    if benchmark is None:
        return HubDataset(repo=repo)
    return HubDataset.model_validate(benchmark.model_dump(include=set(HubDataset.model_fields)))


def check_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return lm-eval's names of the typed tasks, without duplicates.

    Raises:
        ConfigError: there is no task, a task does not exist, or a task needs no mirror.
    """
    names = tuple(dict.fromkeys(data.ALIASES.get(task, task) for task in tasks))
    if not names:
        raise ConfigError("--tasks names no task; try --tasks mmlu,ceval,ifeval")
    own = [name for name in names if name in accuracy_tasks.MINI_TASKS]
    if own:
        raise ConfigError(f"--tasks: {own[0]} comes with quantbench and needs no mirror")
    try:
        accuracy_tasks.check_tasks(tuple(name for name in names if not benchmark_of(name)))
    except ConfigError as error:
        raise ConfigError(str(error).replace("accuracy.tasks", "--tasks", 1)) from error
    return names


def dataset_paths(index: Mapping[str, Any], member: str | Mapping[str, Any]) -> set[str]:
    """Return the data sets that a task, group or tag of lm-eval reads.

    Args:
        index: ``TaskManager.task_index``.
        member: its name, or its entry in a group's yaml.
    """
    config: Mapping[str, Any] = {}
    if isinstance(member, str):
        if entry := index.get(member):
            config = entry.cfg or {"task": sorted(entry.tags)}
    elif "dataset_path" in member or isinstance(member.get("task"), list):
        config = member
    else:
        return dataset_paths(index, member.get("task") or member["group"])
    if "dataset_path" in config:
        return {config["dataset_path"]}
    members = config.get("task")
    return {path for each in members for path in dataset_paths(index, each)} if isinstance(members, list) else set()


def repos_of(tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the repositories that each task reads, using lm-eval's index only for unknown tasks.

    Raises:
        ConfigError: a task reads no data set on the hub.
    """
    repos: dict[str, tuple[str, ...]] = {}
    index: Mapping[str, Any] | None = None
    for task in tasks:
        benchmark = benchmark_of(task)
        if benchmark:
            repos[task] = (benchmark.repo,)
            continue
        if index is None:
            from lm_eval.tasks import TaskManager

            index = TaskManager().task_index
        paths = dataset_paths(index, task)
        if not paths or paths & set(LOCAL_FORMATS):
            raise ConfigError(f"--tasks: {task} names no data set on the hub, so a mirror cannot hold its data")
        repos[task] = tuple(sorted(paths))
    return repos
