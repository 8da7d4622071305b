"""The accuracy stage: tasks without a score, scored over the running server, each kept as soon as it is there."""

import json
import time

from bench.accuracy import tasks as accuracy_tasks
from bench.errors import AccuracyError
from bench.lifecycle import RunningEngine
from bench.plan import TaskStage
from bench.process import Child
from bench.record import TaskScore
from bench.store import Store, write_atomic
from bench.toolchain import interpreter_for
from bench.underway import Run

POLL_SECONDS = 0.25


def tasks_to_run(run: Run) -> tuple[TaskStage, ...]:
    """Return the tasks without a score under the same key, here or in an earlier run."""
    have = {score.key for score in run.folder.scores() if score.status in ("ok", "emulated")}
    left = []
    for stage in run.plan.tasks:
        if stage.key.digest in have:
            continue
        known = Store(run.spec.results_dir).score(stage.task, stage.key.digest)
        if known:
            score, run_id = known
            run.folder.add_score(score.model_copy(update={"variant": run.spec.variant}))
            run.note(f"{stage.task}: reused from run {run_id} (same key {stage.key.digest[:12]})")
        else:
            left.append(stage)
    return tuple(left)


def measure_accuracy(run: Run, engine: RunningEngine, stages: tuple[TaskStage, ...]) -> None:
    """Run the tasks that are left in a process of their own, keeping each score as it appears.

    Raises:
        AccuracyError: that process died.
    """
    if not stages or run.checkpoint is None:
        return
    spec = run.spec.accuracy
    interpreter = interpreter_for(("lm_eval", "datasets"), f"accuracy={spec.name}")
    work = run.folder.path / "work"
    for directory in sorted({accuracy_tasks.working_dir(stage.task, spec.hub_dir) for stage in stages}, key=str):
        chosen = [stage for stage in stages if accuracy_tasks.working_dir(stage.task, spec.hub_dir) == directory]
        jobs = [
            accuracy_tasks.TaskJob(
                variant=run.spec.variant,
                engine=engine.name,
                emulates=engine.emulates,
                task=stage.task,
                key=stage.key.digest,
                base_url=engine.base_url,
                checkpoint=run.checkpoint.path,
                max_length=run.spec.model.context_length,
                num_fewshot=spec.fewshot_of(stage.task),
                limit=spec.limit,
                chat_template=stage.task in spec.chat_template,
                max_gen_toks=spec.max_gen_toks,
                concurrency=spec.concurrency,
                seed=run.spec.seed,
                result=work / f"{stage.task}.json",
                progress=work / f"{stage.task}.progress",
            )
            for stage in chosen
        ]
        for job in jobs:
            job.result.unlink(missing_ok=True)
        write_atomic(work / "jobs.json", json.dumps([job.model_dump(mode="json") for job in jobs]))
        argv = [interpreter, "-m", "bench.accuracy.evaluate", str(work / "jobs.json")]
        log_file = run.folder.path / "accuracy.log"
        env = accuracy_tasks.environment(spec.hub_dir, engine.api_key)
        with Child(argv, what="accuracy", log_file=log_file, env=env, cwd=directory or run.folder.path) as child:
            for job in jobs:
                _await_score(run, child, job)


def _await_score(run: Run, child: Child, job: accuracy_tasks.TaskJob) -> None:
    """Show a task's progress until its score is there, and keep it."""
    with run.view.stage(job.task) as line:
        while not job.result.exists():
            if child.exit_code is not None and not job.result.exists():
                raise AccuracyError(
                    f"{job.task}: the evaluation ended early: {child.log_tail()} (log: {child.log_file})"
                )
            if job.progress.exists():
                done, total = map(int, job.progress.read_text().split())
                line.update(done=done, total=total)
            else:
                line.update()
            time.sleep(POLL_SECONDS)
    score = TaskScore.model_validate_json(job.result.read_bytes())
    run.folder.add_score(score)
    job.result.unlink()
    for reason in score.reasons:
        run.view.say(f"  {job.task}: {score.status}: {reason}")
