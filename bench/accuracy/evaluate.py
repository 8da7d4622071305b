"""``python -m bench.accuracy.evaluate JOBS.json``: run lm-eval tasks against a server, one after the other.

This is a separate process, because lm-eval imports torch and reads its data relative to the working directory. Each
score is written atomically when its task ends. A task that fails gets a score with status ``failed`` and the reason.
"""

import functools
import json
import logging
import math
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from bench.accuracy import data
from bench.accuracy.asking import Asker, Endpoint, ServerGoneError
from bench.accuracy.journal import Journal
from bench.accuracy.questions import PromptNote
from bench.accuracy.tasks import BUILD, GONE, MINI_DIR, MINI_TASKS, TaskJob
from bench.errors import AccuracyError
from bench.files import write_atomic
from bench.records.record import PROBLEM_MEANING, ItemOutcome, Metric, Problem, Status, TaskScore
from quantize.imports import import_transformers
from quantize.parent import end_with_parent

log = logging.getLogger("bench.accuracy")
PROGRESS_S = 0.5
"""Shortest interval of progress reports. Chosen: no visible delay, and no load on the disk."""


def _progress_writer(file: Path) -> Any:
    last = 0.0

    def write(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            write_atomic(file, f"{done} {total}")

    return write


def _number(value: Any) -> float | None:
    """Return a metric as a number; a list (one entry per instruction) as its mean.

    None for anything that is not a finite number, such as an item's (log-probability, number of words), which becomes a
    figure only together with those of the other items.
    """
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, Real) for part in parts):
        return None
    mean = sum(map(float, parts)) / len(parts)
    return mean if math.isfinite(mean) else None


def _outcome(task: str, sample: dict[str, Any], notes: dict[str, PromptNote]) -> ItemOutcome:
    responses = sample["filtered_resps"]
    first = responses[0]
    # A response is (log-probability, is greedy), a text, a log-probability only, or several texts.
    logprobs = tuple(response[0] for response in responses) if isinstance(first, tuple) else ()
    answer = str(max(range(len(logprobs)), key=logprobs.__getitem__)) if logprobs else str(first)
    prompt_notes = [notes[arguments[0]] for arguments in sample["arguments"] if arguments[0] in notes]
    return ItemOutcome(
        task=task,
        doc_id=sample["doc_id"],
        doc_hash=sample["doc_hash"],
        prompt_hash=sample["prompt_hash"],
        target=str(sample["target"]),
        answer=answer,
        logprobs=logprobs,
        metrics={name: number for name in sample["metrics"] if (number := _number(sample[name])) is not None},
        prompt_tokens=max((note.prompt_tokens for note in prompt_notes), default=None),
        problem=next((note.problem for note in prompt_notes if note.problem), None),
    )


def _metrics(result: dict[str, Any]) -> tuple[Metric, ...]:
    """Return a result's metrics; lm-eval's ``acc,none`` and ``acc_stderr,none`` become one metric."""
    metrics: list[Metric] = []
    for key, value in result.items():
        name, comma, kind = key.partition(",")
        if comma and not name.endswith("_stderr") and (number := _number(value)) is not None:
            label = name if kind == "none" else f"{name},{kind}"
            metrics.append(Metric(name=label, value=number, stderr=_number(result.get(f"{name}_stderr,{kind}"))))
    return tuple(metrics)


def _too_many(counts: Mapping[Problem, int], n_items: int, allowed: dict[Problem, float]) -> tuple[str, ...]:
    """Return why a score is invalid: one reason for each problem that too many items have."""
    return tuple(
        f"{counts[problem]} of {n_items} {PROBLEM_MEANING[problem]} (at most {share:.0%} may be; "
        f"accuracy.max_share.{problem})"
        for problem, share in allowed.items()
        if counts.get(problem, 0) > share * n_items
    )


def run(job: TaskJob, manager: Any) -> TaskScore:
    """Run one task and return its score.

    Raises:
        ServerGoneError: the server has ended; its answers are kept.
        AccuracyError: the server failed, or gave an answer that cannot be scored.
    """
    from lm_eval import evaluator

    from bench.accuracy.served_lm import ServedLM

    # Keep lm-eval from starting other programs: pip for each task, and a bootstrap that forks this process, which has
    # threads, once per core.
    evaluator.add_env_info = lambda results: None
    os.environ["DISABLE_MULTIPROC"] = "1"
    begin = time.monotonic()
    loaded = manager.load([job.task])
    problems = data.verify_docs(job.task, loaded["tasks"]) if job.verify_data else ()
    if problems:
        raise AccuracyError(data.refusal(job.task, problems))
    # Passing objects instead of names loads the data only once.
    groups = loaded["groups"]
    if job.task not in groups and job.task not in loaded["tasks"]:
        names = ",".join(loaded["tasks"])
        raise AccuracyError(f"{job.task} is a tag, which has no score; list its tasks: accuracy.tasks=[{names}]")
    tasks = [groups[job.task]] if job.task in groups else list(loaded["tasks"].values())
    limit = job.limit and max(job.limit, math.ceil(job.at_least / len(loaded["tasks"])))
    with Journal(job.journal) as journal:
        if journal.dropped:
            log.warning("%s: dropped %d unreadable lines; their questions are repeated", job.journal, journal.dropped)
        server = Endpoint(job.base_url, job.protocol, job.served_model, job.concurrency, job.timeout_s)
        asker = Asker(server, journal, backwards=bool(job.repeat), on_progress=_progress_writer(job.progress))
        model = ServedLM(
            asker,
            job.checkpoint,
            max_length=job.max_length,
            thinking=job.thinking,
            sampling=job.sampling,
            max_gen_toks=job.max_gen_toks,
            seed=job.seed,
        )
        results = evaluator.simple_evaluate(
            model=model,
            tasks=tasks,
            task_manager=manager,
            num_fewshot=job.num_fewshot,
            limit=limit,
            apply_chat_template=job.chat_template,
            log_samples=True,
            bootstrap_iters=1000,
            random_seed=job.seed,
            numpy_random_seed=job.seed,
            torch_random_seed=job.seed,
            fewshot_random_seed=job.seed,
        )
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    items = tuple(_outcome(leaf, sample, model.notes) for leaf in sorted(samples) for sample in samples[leaf])
    # An item counts once, even with several filters.
    item_problems = {(item.task, item.doc_id): item.problem for item in items}
    counts = Counter(problem for problem in item_problems.values() if problem)
    shots = {results["n-shot"].get(leaf) for leaf in samples}
    reasons = _too_many(counts, len(item_problems), job.max_share)
    status: Status = "invalid" if reasons else "emulated" if job.emulates else "ok"
    return _score(job, status, seconds=time.monotonic() - begin, reasons=reasons).model_copy(
        update={
            "metrics": _metrics(results["results"][job.task]),
            "n_items": len(item_problems),
            "num_fewshot": shots.pop() if len(shots) == 1 else None,
            "limit": limit,
            "task_versions": {name: str(version) for name, version in results["versions"].items()},
            "counts": {problem: counts[problem] for problem in PROBLEM_MEANING},
            "work": asker.work(),
            "items": items,
        }
    )


def _score(job: TaskJob, status: Status, *, seconds: float, reasons: tuple[str, ...] = ()) -> TaskScore:
    return TaskScore(
        variant=job.variant,
        engine=job.engine,
        task=job.task,
        key=job.key,
        status=status,
        reasons=reasons,
        metrics=(),
        n_items=0,
        num_fewshot=job.num_fewshot,
        limit=job.limit,
        chat_template=job.chat_template,
        thinking=job.thinking if job.chat_template else None,
        max_gen_toks=job.max_gen_toks,
        sampling=job.sampling,
        context_length=job.max_length,
        yarn=job.yarn,
        repeat=job.repeat,
        task_versions={},
        counts={},
        duration_s=seconds,
        items=(),
    )


def _explain(error: Exception, task: str) -> str:
    """Return why a task failed, and what to do if the cause is known."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, AccuracyError):
        return text
    if type(error).__module__.startswith(("datasets", "huggingface_hub", "httpx")) or isinstance(
        error, ConnectionError
    ):
        return (
            f"cannot load the data of {task} ({type(error).__name__}: {text}); name a local hub mirror with "
            f"accuracy.hub_dir=… or QUANTBENCH_HUB ({BUILD}), or use accuracy=demo, which needs no download"
        )
    if isinstance(error, LookupError) and "nltk" in str(error).lower():
        return f"{task} needs NLTK's punkt_tab: pip install --no-deps llama-index-core, or set NLTK_DATA"
    return f"{type(error).__name__}: {text}"


def _manager(tasks: set[str]) -> Any:
    """Return a task manager for the tasks only, because reading all of lm-eval's yaml files takes ten seconds."""
    import lm_eval
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    # Without a cache lm-eval compiles a prompt's template for every text, 98,000 times for MMLU.
    utils.env.from_string = functools.cache(utils.env.from_string)

    benchmarks = data.benchmarks()
    yaml_dir = Path(lm_eval.__file__).parent / "tasks"
    folders = [MINI_DIR, *(yaml_dir / benchmarks[task].tasks_dir for task in sorted(tasks & benchmarks.keys()))]
    return TaskManager(
        include_defaults=not tasks <= {*benchmarks, *MINI_TASKS}, include_path=[str(folder) for folder in folders]
    )


def main(argv: list[str]) -> int:
    """Run the jobs of the file named by the only argument.

    Returns:
        Exit code 0, even if a task failed, because its score says so; ``GONE`` if the server has ended and jobs
        without a score remain.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    end_with_parent()
    import_transformers()
    jobs = [TaskJob.model_validate(job) for job in json.loads(Path(argv[0]).read_text())]
    manager = _manager({job.task for job in jobs})
    for job in jobs:
        begin = time.monotonic()
        try:
            score = run(job, manager)
        except ServerGoneError as error:
            log.error("%s: %s", job.task, error)
            return GONE
        except Exception as error:  # noqa: BLE001 - one task's failure must not affect the next; the log has the details
            traceback.print_exc()
            reason = _explain(error, job.task)
            score = _score(job, "failed", seconds=time.monotonic() - begin, reasons=(reason,))
        write_atomic(job.result, score.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
