"""Carries a plan out: reuse or build the checkpoint, serve it, measure, keep every result as soon as it is there."""

import asyncio
import contextlib
import json
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

import psutil

from bench.accuracy import tasks as accuracy_tasks
from bench.build import build, find
from bench.environment import read_environment
from bench.errors import AccuracyError, QuantbenchError
from bench.lifecycle import RunningEngine, serve
from bench.plan import BuildStage, Plan, TaskStage, plan
from bench.process import Child, end_orphans
from bench.progress import View
from bench.record import Failure, RunRecord, ServerFacts, SpeedCell, TaskScore
from bench.spec import RunSpec
from bench.speed.client import Client
from bench.speed.shapes import Shape, shape_of
from bench.speed.sweep import not_supported, ordinary_vocabulary, sweep
from bench.store import RunFolder, Store, to_plain, write_atomic
from bench.toolchain import interpreter_for
from quantize.checkpoint import Checkpoint
from quantize.key import Key

POLL_SECONDS = 0.25
FINAL = ("ok", "emulated", "not_supported")
"""States of a cell that a resumed run does not measure again."""


class Run:
    """One run under way: what it has decided, what went wrong, and how long its stages took."""

    def __init__(self, spec: RunSpec, plan: Plan, folder: RunFolder, begun: RunRecord, view: View) -> None:
        """Hold what every stage needs."""
        self.spec = spec
        self.plan = plan
        self.folder = folder
        self.begun = begun
        self.view = view
        self.log: list[str] = list(begun.log)
        self.failures: list[Failure] = []
        self.seconds: dict[str, float] = {}
        self.checkpoint: Checkpoint | None = None
        self.engine_info: dict[str, object] = {}
        self.server: ServerFacts | None = None

    def note(self, text: str) -> None:
        """Say a decision and keep it in the record."""
        self.log.append(text)
        self.view.say(f"  {text}")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a known error becomes a failure of the run and is told, without ending the rest."""
        begin = time.monotonic()
        try:
            yield
        except QuantbenchError as error:
            self.failures.append(Failure(stage=name, message=str(error)))
            self.view.say(f"  {name} failed: {error}")
        finally:
            self.seconds[name] = round(time.monotonic() - begin, 3)

    def record(self) -> RunRecord:
        """Return everything seen, as the record of an ended run."""
        return self.begun.model_copy(
            update={
                "checkpoint": self.checkpoint.manifest if self.checkpoint else None,
                "engine_info": self.engine_info,
                "server": self.server,
                "cells": self.folder.cells(),
                "scores": self.folder.scores(),
                "failures": tuple(self.failures),
                "stage_seconds": self.seconds,
                "log": tuple(self.log),
                "finished_at": _now(),
            }
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _begin(spec: RunSpec, key: Key) -> tuple[RunFolder, RunRecord, str | None]:
    """Take up a run with the same key that was cut short, or begin a new one; returns (folder, record, note)."""
    store = Store(spec.results_dir)
    update = {"session": spec.session, "command": spec.command}
    environment = read_environment()
    cut_short = store.unfinished(key.digest, environment)
    if cut_short:
        folder, begun = cut_short
        begun = begun.model_copy(update=update)
        folder.begin(begun)
        kept = sum(cell.status in FINAL for cell in folder.cells()) + len(folder.scores())
        return folder, begun, f"going on with run {begun.run_id}, which was cut short; {kept} results kept"
    variant = f"{spec.model.name}-{spec.quant.name}"
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{variant}-{key.digest[:8]}"
    folder = store.create(run_id)
    begun = RunRecord(
        run_id=run_id,
        variant=spec.variant,
        key=key.digest,
        spec=to_plain(spec.model_copy(update={"session": ""})),
        environment=environment,
        engine=spec.engine.name,
        engine_info={},
        checkpoint=None,
        started_at=_now(),
        finished_at=None,
        **update,
    )
    folder.begin(begun)
    return folder, begun, None


def execute(spec: RunSpec) -> RunRecord:
    """Run ``spec`` from its checkpoint to its record. Known errors end up in the record, not in an exception.

    Raises:
        KeyboardInterrupt: the run was interrupted; it stays unfinished on disk and the next one goes on with it.
        SourceError: the model's weights cannot be had; nothing was begun.
        StoreError: the results folder cannot be written.
    """
    with View(f"{spec.model.title} · {spec.variant.quant} · {spec.engine.name}") as view:
        for line in end_orphans():
            view.say(f"  {line}")
        made = plan(spec)
        before = Store(spec.results_dir).done(spec.session, made.key.digest, read_environment())
        if before and datetime.fromisoformat(before.started_at).timestamp() < psutil.Process().create_time():
            view.say(f"  done before this command was cut short: run {before.run_id}")
            return before
        folder, begun, resumed = _begin(spec, made.key)
        run = Run(spec, made, folder, begun, view)
        try:
            if resumed:
                run.note(resumed)
            _measure(run)
        except QuantbenchError as error:
            run.failures.append(Failure(stage="run", message=str(error)))
            view.say(f"  failed: {error}")
        except Exception as error:  # noqa: BLE001 - nothing that was measured may be lost to a fault of ours
            trace = folder.path / "traceback.txt"
            write_atomic(trace, traceback.format_exc())
            message = f"internal error, please report it: {type(error).__name__}: {error} ({trace})"
            run.failures.append(Failure(stage="run", message=message))
            view.say(f"  {message}")
        record = run.record()
        folder.finish(record)
        folder.release()
    return record


def _measure(run: Run) -> None:
    """Build, serve and measure; everything it leaves undone stands among the run's failures."""
    source = None
    with run.stage("source"):
        source = _checkpoint(run, run.plan.source, None, f"source weights of {run.spec.model.name}")
    if source is None:
        return
    with run.stage("quantize"):
        run.checkpoint = _checkpoint(run, run.plan.quantize, source, f"{run.spec.quant.name} of {run.spec.model.name}")
    if run.checkpoint is None:
        return
    shapes = _shapes_to_measure(run)
    tasks = _tasks_to_run(run)
    if not shapes and not tasks:
        return
    with run.stage("serve"):
        while shapes or tasks:
            with _serve(run, run.checkpoint) as engine:
                with run.stage("speed"):
                    shapes = asyncio.run(_speed(run, engine, shapes))
                if not engine.ended or engine.child is None:
                    with run.stage("accuracy"):
                        _accuracy(run, engine, tasks)
                    return
                run.note(f"{engine.child.what} {engine.child.how_it_ended()}; starting it anew for what is left")


@contextlib.contextmanager
def _serve(run: Run, checkpoint: Checkpoint) -> Iterator[RunningEngine]:
    """Serve the checkpoint, showing that the server is being started."""
    with contextlib.ExitStack() as stack:
        with run.view.stage("starting the server") as line:
            server = serve(
                run.spec.engine,
                checkpoint,
                context_length=run.spec.model.context_length,
                what=f"server of {run.spec.variant.model} {run.spec.variant.quant}",
                log_file=run.folder.path / "server.log",
                on_wait=line.update,
            )
            engine = stack.enter_context(server)
        run.engine_info, run.server = dict(engine.info), engine.facts
        yield engine


def _checkpoint(run: Run, stage: BuildStage, source: Checkpoint | None, what: str) -> Checkpoint:
    found, why = find(stage)
    if found:
        run.note(f"{what}: reused ({why})")
        return found
    run.note(f"{what}: building ({why})")
    with run.view.stage(f"building {what}") as line:
        return build(stage, source.path if source else None, run.spec, what=what, why=why, line=line)


def _shapes_to_measure(run: Run) -> tuple[Shape, ...]:
    """Return the shapes that still need time; those known to be impossible become cells at once."""
    kept = {shape_of(cell) for cell in run.folder.cells() if cell.status in FINAL}
    left = []
    for shape in run.plan.shapes:
        if shape in kept:
            continue
        reason = not_supported(shape, run.spec.model.context_length)
        if reason is None:
            left.append(shape)
            continue
        run.note(f"{shape.input_len} tokens in, {shape.load}: not supported ({reason})")
        run.folder.add_cell(
            SpeedCell(
                variant=run.spec.variant,
                engine=run.spec.engine.name,
                **shape.model_dump(),
                seed=run.spec.seed,
                status="not_supported",
                reasons=(reason,),
                trials=(),
            )
        )
    return tuple(left)


def _tasks_to_run(run: Run) -> tuple[TaskStage, ...]:
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


async def _speed(run: Run, engine: RunningEngine, shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Measure every shape, keeping each cell before the next begins; return the shapes left when the server died."""
    if not shapes or run.checkpoint is None:
        return ()
    left = list(shapes)
    vocabulary = ordinary_vocabulary(run.checkpoint.path / "tokenizer.json")
    with run.view.stage("speed", total=len(shapes)) as line:
        async with Client(
            engine.base_url, total_timeout_s=engine.request_timeout_s, stall_timeout_s=engine.stall_timeout_s
        ) as client:
            async for cell in sweep(
                client,
                shapes,
                variant=run.spec.variant,
                engine=engine.name,
                vocabulary=vocabulary,
                trials=run.spec.workload.trials,
                seed=run.spec.seed,
                emulated=engine.emulates,
                memory=engine.child.memory_bytes if engine.child else lambda: None,
                on_progress=lambda text: line.update(detail=text),
            ):
                run.folder.add_cell(cell)
                left.remove(shape_of(cell))
                line.update(done=len(shapes) - len(left))
                if engine.ended:
                    break
    return tuple(left)


def _accuracy(run: Run, engine: RunningEngine, stages: tuple[TaskStage, ...]) -> None:
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
        env = accuracy_tasks.environment(spec.hub_dir)
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
