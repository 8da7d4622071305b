"""Which tasks there are, where their data comes from, and what a score depends on. Loads no lm-eval."""

import importlib.util
import os
import re
from pathlib import Path

from bench.accuracy import data
from bench.config.spec import AccuracySpec
from bench.engines import Engine
from bench.errors import ConfigError, nearest
from bench.machine.environment import gpus, installed_versions
from bench.records.record import Mode, Problem, Variant, Yarn
from quantize.checkpoint import hash_folder
from quantize.key import Frozen, Key, canonical_json, sha256_text

MINI_DIR = Path(__file__).resolve().parent / "mini"
MINI_TASKS = ("mini-mmlu", "mini-ceval", "mini-ifeval")
HUB_DATA = {"mmlu": "cais/mmlu", "ceval-valid": "ceval/ceval-exam", "ifeval": "google/IFEval"}
"""Folder of a local hub mirror that a task's data lies in."""
VERSION = 2
"""Raised whenever a change here would change a score."""
KEY_VARIABLE = "QUANTBENCH_SERVER_KEY"
"""Environment variable that carries the server's key to the process that asks it."""


BUILD = "build one with quantbench mirror build --out DIR on a machine that reaches the hub"
GONE = 3
"""Exit code of an evaluation whose server has ended."""


class TaskJob(Frozen):
    """One task for :mod:`bench.accuracy.evaluate` to run against a server."""

    variant: Variant
    engine: str
    emulates: bool
    task: str
    key: str
    base_url: str
    protocol: str
    served_model: str
    """What requests must call the model; empty for nothing."""
    checkpoint: Path
    max_length: int
    num_fewshot: int | None
    limit: int | None
    """Items of each leaf task at most; None for all."""
    at_least: int
    """Items of the whole task below which the limit does not go."""
    chat_template: bool
    thinking: bool
    sampling: Mode | None
    """How the tokens of answers are drawn; None for as the task says."""
    yarn: Yarn | None
    max_gen_toks: int | None
    max_share: dict[Problem, float]
    """Above which share of items with a problem the score is invalid."""
    verify_data: bool
    concurrency: int
    timeout_s: float
    repeat: int
    seed: int
    journal: Path
    """Answers are kept here, one by one."""
    result: Path
    """The score is written here, whole."""
    progress: Path
    """``done total`` is written here from time to time."""


def _lm_eval_tasks_dir() -> Path | None:
    spec = importlib.util.find_spec("lm_eval")
    return Path(spec.origin).parent / "tasks" if spec and spec.origin else None


def check_tasks(tasks: tuple[str, ...]) -> None:
    """Check task names without importing lm-eval: its yaml files are searched for names other than the usual ones.

    Raises:
        ConfigError: no such task; suggests the nearest.
    """
    unusual = [task for task in tasks if task not in HUB_DATA and task not in MINI_TASKS]
    folder = _lm_eval_tasks_dir()
    if not unusual or folder is None:
        return
    known = {*HUB_DATA, *MINI_TASKS}
    for file in folder.rglob("*.yaml"):
        known.update(
            re.findall(
                r"^['\"]?(?:task|group|tag)['\"]?:\s*['\"]?([\w.+-]+)", file.read_text(errors="replace"), re.MULTILINE
            )
        )
    for task in unusual:
        if task not in known:
            raise ConfigError(f"accuracy.tasks: lm-eval knows no task '{task}'{nearest(task, known)}")


def check_data(spec: AccuracySpec) -> None:
    """Check that the local hub mirror, if one is named, holds what the tasks read.

    Raises:
        ConfigError: the folder, or a task's folder in it, is not there.
    """
    if spec.hub_dir is None:
        return
    if not spec.hub_dir.is_dir():
        raise ConfigError(f"accuracy.hub_dir: {spec.hub_dir} is not a folder (it also comes from QUANTBENCH_HUB)")
    for task in spec.tasks:
        if task in HUB_DATA and not (spec.hub_dir / HUB_DATA[task]).is_dir():
            raise ConfigError(
                f"accuracy.hub_dir: {spec.hub_dir} holds no {HUB_DATA[task]}, which task {task} reads; {BUILD}"
            )


def working_dir(task: str, hub_dir: Path | None) -> Path | None:
    """Return the folder a task must run in: the mirror, for tasks that read from the hub; None for any."""
    return hub_dir if hub_dir is not None and task not in MINI_TASKS else None


def environment(hub_dir: Path | None, api_key: str | None) -> dict[str, str]:
    """Return the evaluation's own variables: offline where a mirror is named, NLTK's data from its wheel."""
    variables = {"TOKENIZERS_PARALLELISM": "true", **({KEY_VARIABLE: api_key} if api_key else {})}
    if hub_dir:
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    tables = data.nltk_dir(hub_dir)
    wheel = importlib.util.find_spec("llama_index")
    if tables is None and wheel and wheel.submodule_search_locations:
        tables = Path(wheel.submodule_search_locations[0]) / "core/_static/nltk_cache"
    if "NLTK_DATA" not in os.environ and tables:
        variables["NLTK_DATA"] = str(tables)
    return variables


def _data_identity(task: str, hub_dir: Path | None) -> str:
    if task in MINI_TASKS:
        return sha256_text(
            canonical_json({name: fact.sha256 for name, fact in hash_folder(MINI_DIR).items() if "pyc" not in name})
        )
    if hub_dir is not None and task in HUB_DATA:
        folder = hub_dir / HUB_DATA[task]
        sizes = {
            str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()
        }
        return sha256_text(canonical_json(sizes))
    return "hub"


def answers_key(
    checkpoint: Key,
    *,
    engine: Engine,
    context_length: int,
    yarn: Yarn | None = None,
    versions: dict[str, str],
    repeat: int = 0,
) -> Key:
    """Return what the answer to a question depends on: the server. The answers of a limited run serve the full one."""
    names = ("torch", "transformers")
    kernel = engine.identity()
    return Key(
        stage="answers",
        version=VERSION,
        inputs={
            "checkpoint": checkpoint.digest,
            "engine": {"name": engine.name, "gpus": gpus(), **kernel},
            "context_length": context_length,
            **({"yarn": yarn.model_dump()} if yarn else {}),
            "libraries": installed_versions(names),
            **({"server": versions} if versions else {}),
            **({"repeat": repeat} if repeat else {}),
        },
    )


def score_key(spec: AccuracySpec, task: str, answers: Key, *, seed: int) -> Key:
    """Return what a task's score depends on, so that it is measured once."""
    return Key(
        stage="accuracy",
        version=VERSION,
        inputs={
            "answers": answers.digest,
            "task": task,
            "num_fewshot": spec.fewshot_of(task),
            "limit": spec.limit and [spec.limit, spec.at_least],
            "chat_template": task in spec.chat_template,
            "thinking": task in spec.chat_template and spec.thinking,
            "sampling": (how := spec.sampling_of(task)) and how.model_dump(),
            "max_gen_toks": spec.cap_of(task),
            "max_share": spec.max_share,
            "concurrency": spec.concurrency,  # batching changes rounding, and with it a pick now and then
            "data": _data_identity(task, spec.hub_dir),
            "libraries": installed_versions(("lm_eval",)),
            "seed": seed,
        },
    )
