"""Execute a plan: reuse or build the checkpoint, serve it, measure it, and store every result as soon as it exists."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from bench.config.spec import RunSpec, record_spec
from bench.console import Stage, View
from bench.errors import EngineError, QuantbenchError
from bench.files import write_atomic
from bench.machine.child import end_orphans
from bench.machine.environment import read_environment
from bench.machine.lease import lease_devices
from bench.pipeline.accuracy_stage import measure_accuracy, tasks_to_run
from bench.pipeline.checkpoints import build, find
from bench.pipeline.session import attempt_of
from bench.pipeline.speed_stage import Subject, find_device, measure_speed, servers, shapes_left, side_by_side
from bench.pipeline.state import FINAL, RunState
from bench.plan.stages import BuildStage, TaskStage, context_of, plan
from bench.records.engine_info import EngineInfo
from bench.records.record import Failure, RunRecord
from bench.records.store import CELLS, RunFolder, Store
from bench.servers.lifecycle import join
from quantize.checkpoint import Checkpoint
from quantize.clock import utc_name, utc_now
from quantize.key import Key


def _begin(spec: RunSpec, key: Key) -> tuple[RunFolder, RunRecord, str | None]:
    """Resume an interrupted run with the same key, or start a new one; return (folder, record, note)."""
    store = Store(spec.results_dir)
    update: dict[str, Any] = {
        "session": spec.session,
        "command": spec.command,
        "spec": record_spec(spec),
        "dollars_per_hour": spec.price_per_hour,
    }
    environment = read_environment()
    interrupted = store.find_unfinished(key.digest, environment)
    if interrupted:
        folder, record = interrupted
        record = record.model_copy(update=update)
        folder.begin(record)
        results = sum(cell.status in FINAL for cell in folder.cells()) + len(folder.scores())
        return folder, record, f"resuming the interrupted run {record.run_id}; {results} results kept"
    variant = f"{spec.model.name}-{spec.quant.name}"
    run_id = f"{utc_name()}-{variant}-{key.digest[:8]}"
    folder = store.create(run_id)
    record = RunRecord(
        run_id=run_id,
        variant=spec.variant,
        key=key.digest,
        environment=environment,
        engine=spec.engine.name,
        engine_info=EngineInfo(),
        checkpoint=None,
        started_at=utc_now(),
        finished_at=None,
        **update,
    )
    folder.begin(record)
    return folder, record, None


def execute(spec: RunSpec) -> RunRecord:
    """Run ``spec`` from its checkpoint to its record. Known errors are stored in the record instead of being raised.

    Raises:
        KeyboardInterrupt: the run was interrupted; it stays unfinished on disk and the next command resumes it.
        SourceError: the model's weights are unavailable; no run was started.
        StoreError: the results folder cannot be written.
    """
    with View(f"{spec.model.title} · {spec.variant.quant} · {spec.engine.name}") as view:
        for line in end_orphans():
            view.say(f"  {line}")
        run_plan = plan(spec)
        before = Store(spec.results_dir).find_done(spec.session, run_plan.key.digest, read_environment())
        attempt_at = attempt_of(spec.results_dir, spec.session)
        if before and attempt_at and datetime.fromisoformat(before.started_at) < datetime.fromisoformat(attempt_at):
            view.say(f"  finished before this command was interrupted: run {before.run_id}")
            return before
        folder, initial, resumed = _begin(spec, run_plan.key)
        run = RunState(spec, run_plan, folder, initial, view)
        try:
            if resumed:
                run.note(resumed)
            _measure(run)
        except QuantbenchError as error:
            run.failures.append(Failure(stage="run", message=str(error)))
            view.say(f"  failed: {error}")
        except Exception as error:  # noqa: BLE001 - a bug must not lose what was measured
            trace = folder.path / "traceback.txt"
            write_atomic(trace, traceback.format_exc())
            message = f"internal error, please report it: {type(error).__name__}: {error} ({trace})"
            run.failures.append(Failure(stage="run", message=message))
            view.say(f"  {message}")
        record = run.record()
        folder.finish(record)
        folder.release()
    return record


def _measure(run: RunState) -> None:
    """Build, serve and measure; whatever could not be done is listed in the run's failures."""
    if run.plan.source is not None and not _build_all(run):
        return
    if run.spec.engine.parallelism.node_rank > 0 and run.checkpoint is not None:
        with run.view.stage("joining the server of the head node") as line:
            outcome = join(
                run.spec.engine,
                run.checkpoint,
                context_length=context_of(run.spec),
                yarn=run.spec.yarn,
                what=f"server of {run.spec.variant.model} {run.spec.variant.quant}",
                log_file=run.folder.path / "server.log",
                on_wait=line.update,
            )
        run.note(outcome)
        return
    groups = list(side_by_side(run))
    while groups:
        group = groups.pop(0)
        with run.stage("serve"):
            try:
                _serve_and_measure(run, group, tasks_to_run(run) if group[0].place == CELLS else ())
            except EngineError as error:
                if len(group) == 1:
                    raise
                run.note(f"not interleaved: {error}; serving one after the other")
                groups = [(subject,) for subject in group]


def _build_all(run: RunState) -> bool:
    """Find or build every checkpoint; return False if one is unavailable."""
    name, baseline = run.spec.model.name, run.spec.baseline
    source = None
    with run.stage("source"):
        source = _checkpoint(run, run.plan.source, None, f"source weights of {name}")
    if source is None:
        return False
    with run.stage("quantize"):
        run.checkpoint = _checkpoint(run, run.plan.quantize, source, f"{run.spec.quant.name} of {name}")
        if baseline:
            run.baseline = _checkpoint(run, run.plan.baseline, source, f"{baseline.quant.name} of {name}, the baseline")
    return run.checkpoint is not None and (baseline is None or run.baseline is not None)


def _serve_and_measure(run: RunState, group: Sequence[Subject], tasks: tuple[TaskStage, ...]) -> None:
    """Serve a group and measure what remains; a server that ends is restarted for the rest."""
    shapes = shapes_left(run, group)
    while shapes or tasks:
        with devices_for(run, group), servers(run, group) as served:
            with run.stage("speed"):
                shapes = measure_speed(run, served, shapes)
            ended = [engine for _, engine in served if engine.ended]
            left: tuple[TaskStage, ...] = tasks if ended else ()
            if tasks and not ended:
                with run.stage("accuracy"):
                    find_device(run, served[0][1])
                    left = measure_accuracy(run, served[0][1], tasks)
                ended = [engine for _, engine in served if engine.ended]
            tasks = left
            if not shapes and not tasks:
                return
            if run.spec.engine.parallelism.nodes > 1:
                raise EngineError(
                    f"{ended[0].gone()}; this also ended the servers of the other nodes: restart all of them"
                )
            for engine in ended:
                run.note(f"{engine.gone()}; restarting it for the rest")


@contextmanager
def devices_for(run: RunState, group: Sequence[Subject]) -> Iterator[None]:
    """Lease the devices of a group's servers during a ``with`` block; wait while another run holds them."""
    engine = run.spec.engine
    if engine.is_external:
        yield
        return
    count = engine.parallelism.devices
    line: Stage | None = None

    def wait() -> None:
        nonlocal line
        line = line or waiting.enter_context(run.view.stage("waiting for a device that another run holds"))
        line.update()

    with ExitStack() as waiting, lease_devices(count, on_cpu=engine.device == "cpu", on_wait=wait) as leased:
        waiting.close()
        if leased:
            run.note(f"on device {', '.join(leased)}")
        yield


def _checkpoint(run: RunState, stage: BuildStage | None, source: Checkpoint | None, what: str) -> Checkpoint:
    assert stage is not None
    checkpoint, why = find(stage)
    if checkpoint:
        run.note(f"{what}: reused ({why})")
        return checkpoint
    run.note(f"{what}: building ({why})")
    with run.view.stage(f"building {what}") as line:
        return build(stage, source.path if source else None, run.spec, what=what, why=why, line=line)
