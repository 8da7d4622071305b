"""The accuracy stage: score the remaining tasks on the running server, and store each score as soon as it exists."""

import json
import sys
import time
from pathlib import Path

from bench.accuracy import tasks as accuracy_tasks
from bench.errors import AccuracyError
from bench.files import write_atomic
from bench.machine.child import POLL_S, Child
from bench.pipeline.state import RunState
from bench.plan.stages import TaskStage, context_of
from bench.records.record import TaskScore
from bench.records.store import Store
from bench.servers.lifecycle import RunningEngine
from bench.toolchains.toolchain import interpreter_for

MOST, FEW = 256, 8
"""Concurrent requests: the maximum, and the number for a server that does not report its capacity. Chosen: 256 is
vLLM's default batch size (``max_num_seqs``); 8 keeps an unknown server busy without overloading it."""
PROMPT_TOKENS = 1024
"""Tokens of a long prompt with five examples, to estimate how many requests fit into a server's KV cache."""


def tasks_to_run(run: RunState) -> tuple[TaskStage, ...]:
    """Return the tasks without a score under the same key, in this run or an earlier one."""
    scored = {score.key for score in run.folder.scores() if score.valid}
    left = []
    for stage in run.plan.tasks:
        if stage.key.digest in scored:
            continue
        # An external server may serve another model at the same address by now.
        known = None if run.spec.engine.is_external else Store(run.spec.results_dir).score(stage.task, stage.key.digest)
        if known:
            score, run_id = known
            run.folder.add_score(score.model_copy(update={"variant": run.spec.variant}))
            run.note(f"{stage.title}: reused from run {run_id} (same key {stage.key.digest[:12]})")
        else:
            left.append(stage)
    return tuple(left)


def measure_accuracy(run: RunState, engine: RunningEngine, stages: tuple[TaskStage, ...]) -> tuple[TaskStage, ...]:
    """Run the remaining tasks in a separate process and store each score as soon as it exists.

    Returns:
        The tasks without a score because the server ended; answers so far are kept.

    Raises:
        AccuracyError: the process died; or the server ended without any new answer, or cannot be restarted because it
            is external.
    """
    spec = run.spec.accuracy
    left = list(stages)
    for directory in sorted({accuracy_tasks.working_dir(stage.task, spec.hub_dir) for stage in stages}, key=str):
        group = [stage for stage in stages if accuracy_tasks.working_dir(stage.task, spec.hub_dir) == directory]
        jobs = [_job(run, engine, stage) for stage in group]
        journal_bytes = sum(_size(job.journal) for job in jobs)
        for job in jobs:
            job.result.unlink(missing_ok=True)
        work = run.folder.path / "work"
        write_atomic(work / "jobs.json", json.dumps([job.model_dump(mode="json") for job in jobs]))
        interpreter = interpreter_for(("lm_eval", "datasets"), f"accuracy={spec.name}")
        argv = [interpreter, "-m", "bench.accuracy.evaluate", str(work / "jobs.json")]
        log_file = run.folder.path / "accuracy.log"
        env = accuracy_tasks.environment(spec.hub_dir, engine.api_key)
        with Child(argv, what="accuracy", log_file=log_file, env=env, cwd=directory or run.folder.path) as child:
            for stage, job in zip(group, jobs, strict=True):
                if not _await_score(run, child, job, stage.title):
                    if not engine.ended or sum(_size(job.journal) for job in jobs) == journal_bytes:
                        raise AccuracyError(f"{stage.title}: {child.log_tail()} (log: {child.log_file})")
                    return tuple(left)
                left.remove(stage)
    return ()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _job(run: RunState, engine: RunningEngine, stage: TaskStage) -> accuracy_tasks.TaskJob:
    spec, folder, name = run.spec.accuracy, run.folder.path, f"{stage.task}-{stage.key.digest[:16]}"
    chat = stage.task in spec.chat_template
    return accuracy_tasks.TaskJob(
        variant=run.spec.variant,
        engine=engine.engine.name,
        emulates=engine.emulates,
        task=stage.task,
        key=stage.key.digest,
        base_url=engine.base_url,
        protocol=engine.engine.protocol,
        served_model=engine.engine.served_model,
        checkpoint=_tokenizer(run),
        max_length=min(context_of(run.spec), engine.facts.max_context_tokens or sys.maxsize),
        num_fewshot=spec.fewshot_of(stage.task),
        limit=spec.limit,
        at_least=spec.at_least,
        chat_template=chat,
        thinking=chat and spec.thinking,
        sampling=spec.sampling_of(stage.task),
        yarn=run.spec.yarn,
        max_gen_toks=spec.cap_of(stage.task),
        max_share=spec.max_share,
        verify_data=spec.verify_data,
        concurrency=_concurrency(spec.concurrency, engine),
        timeout_s=engine.engine.config.request_timeout_s,
        repeat=stage.repeat,
        seed=run.spec.seed,
        journal=_journal(run, f"{stage.task}-{stage.answers.digest[:16]}"),
        result=folder / "work" / f"{name}.json",
        progress=folder / "work" / f"{name}.progress",
    )


def _tokenizer(run: RunState) -> Path:
    """Return the folder of the served model's tokenizer.

    Raises:
        SourceError: the tokenizer is unavailable.
    """
    return run.spec.engine.tokenizer(run.checkpoint.path if run.checkpoint else None)


def _journal(run: RunState, name: str) -> Path:
    """Return the journal of answers; an earlier run's answers are reused unless the server is external."""
    if run.spec.engine.is_external:
        return run.folder.path / "answers" / f"{name}.jsonl"
    return Store(run.spec.results_dir).journal(run.folder, name)


def _concurrency(setting: int | str, engine: RunningEngine) -> int:
    """Return the number of concurrent requests: by default twice the server's batch size, so that it is never idle."""
    if isinstance(setting, int):
        return setting
    fits = engine.facts.kv_capacity_tokens
    running = engine.facts.max_running or (fits // PROMPT_TOKENS if fits else FEW)
    return max(1, min(MOST, 2 * running))


def _await_score(run: RunState, child: Child, job: accuracy_tasks.TaskJob, title: str) -> bool:
    """Show a task's progress until its score exists, and store it; return False if the server ended first."""
    with run.view.stage(title) as line:
        while not job.result.exists():
            if child.exit_code is not None and not job.result.exists():
                if child.exit_code == accuracy_tasks.GONE:
                    return False
                raise AccuracyError(f"{title}: the evaluation ended early: {child.log_tail()} (log: {child.log_file})")
            if job.progress.exists():
                done, total = map(int, job.progress.read_text().split())
                line.update(done=done, total=total)
            else:
                line.update()
            time.sleep(POLL_S)
    score = TaskScore.model_validate_json(job.result.read_bytes())
    run.folder.add_score(score)
    job.result.unlink()
    for reason in score.reasons:
        run.view.say(f"  {title}: {score.status}: {reason}")
    return True
