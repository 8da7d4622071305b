"""The speed stage: serve the variant and its baseline, measure every shape, and store each cell before the next."""

import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.config.spec import RunSpec
from bench.limits.measured import exceeds, limit_of
from bench.machine.nvml import Devices
from bench.machine.peaks import device_here
from bench.pipeline.state import FINAL, RunState
from bench.plan.stages import context_of
from bench.records.record import ServerFacts, SpeedCell, Variant
from bench.records.store import CELLS, CONTROL
from bench.servers.lifecycle import RunningEngine, form_of, serve
from bench.speed.client import Client
from bench.speed.client import run as run_client
from bench.speed.figures import MeasuredCell
from bench.speed.monitor import DeviceMemory, Monitor, TreeMemory
from bench.speed.protocols import dialect
from bench.speed.shapes import Shape, shape_of
from bench.speed.sweep import Lane, not_supported, sweep
from quantize.checkpoint import Checkpoint
from quantize.estimate import checkpoint_bytes
from quantize.memory import available_memory

EXPANDED = 2.5
"""Memory of a server on a CPU, as a multiple of its checkpoint's size in 16 bits. Chosen as an upper bound: the
weights, a copy of them to compute with, and half as much for its KV cache."""


@dataclass(frozen=True)
class Subject:
    """A variant to serve and measure."""

    variant: Variant
    checkpoint: Checkpoint | None
    """None for an external server."""
    place: str
    """Where its cells are stored: `CELLS` or `CONTROL`."""


Served = tuple[Subject, RunningEngine]


def subjects(run: RunState) -> tuple[Subject, ...]:
    """Return the variant and, if one was requested, its baseline."""
    variant = Subject(run.spec.variant, run.checkpoint, CELLS)
    if run.spec.baseline is None:
        return (variant,)
    return variant, Subject(run.spec.baseline.variant, run.baseline, CONTROL)


def side_by_side(run: RunState) -> tuple[tuple[Subject, ...], ...]:
    """Return the groups of subjects that are served together; groups are served one after the other."""
    together = subjects(run)
    if len(together) == 1:
        return (together,)
    reason = _does_not_fit(run, [subject.checkpoint for subject in together if subject.checkpoint])
    if reason is None:
        return (together,)
    run.note(f"not interleaved: {reason}; the baseline is measured after the variant")
    return tuple((subject,) for subject in together)


def final_shapes(run: RunState, subject: Subject) -> set[Shape]:
    """Return the shapes whose cells are final and not measured again."""
    return {shape_of(cell) for cell in run.folder.cells(subject.place) if cell.status in FINAL}


def shapes_left(run: RunState, group: Sequence[Subject]) -> tuple[Shape, ...]:
    """Return the shapes left to measure; impossible ones are stored as ``not_supported`` cells at once."""
    final = [final_shapes(run, subject) for subject in group]
    left = []
    for shape in run.plan.shapes:
        if all(shape in measured for measured in final):
            continue
        reason = not_supported(shape, context_of(run.spec), None)
        if reason is None:
            left.append(shape)
            continue
        run.note(f"{shape.input_len} input tokens, {shape.load}: not supported ({reason})")
        for subject in group:
            cell = SpeedCell(
                variant=subject.variant,
                engine=run.spec.engine.name,
                **shape.model_dump(),
                context_length=context_of(run.spec),
                yarn=run.spec.yarn,
                seed=run.spec.seed,
                status="not_supported",
                reasons=(reason,),
                trials=(),
            )
            run.folder.add_cell(cell, subject.place)
    return tuple(left)


def _does_not_fit(run: RunState, checkpoints: Sequence[Checkpoint]) -> str | None:
    """Return why two servers do not fit next to each other; None if they do.

    On accelerators each server gets half of the memory and must fit into it. On a CPU both must fit together, with the
    copies of the weights that they compute with.
    """
    engine = run.spec.engine
    expanded_bytes = checkpoint_bytes(run.spec.model.architecture, None)
    sizes = [
        expanded_bytes if engine.emulates(form_of(checkpoint)) else checkpoint.manifest.checkpoint_bytes
        for checkpoint in checkpoints
    ]
    largest = max(sizes)
    devices = None if engine.device == "cpu" else Devices.here(engine.parallelism.devices)
    if devices is None:
        memory, needed = available_memory(), round(EXPANDED * 2 * largest)
    else:
        with contextlib.closing(devices):
            needed = round(2 * largest / (engine.memory_fraction or 1.0))
            memory = sum(devices.memory_total() or (needed + 1,))
    if needed < memory:
        return None
    return f"two servers need about {fmt.space(needed)} of memory, and {fmt.space(memory)} is available"


@contextlib.contextmanager
def servers(run: RunState, group: Sequence[Subject]) -> Iterator[tuple[Served, ...]]:
    """Serve every subject of a group during a ``with`` block; what the servers report is stored in the run."""
    devices = Devices.here()
    with contextlib.ExitStack() as stack:
        if devices is not None:
            stack.enter_context(contextlib.closing(devices))
        running: list[Served] = []
        for subject in group:
            with run.view.stage(f"starting the server of {subject.variant.quant}") as line:
                server = serve(
                    run.spec.engine,
                    subject.checkpoint,
                    context_length=context_of(run.spec),
                    yarn=run.spec.yarn,
                    share=1 / len(group),
                    running_servers=len(running),
                    what=f"server of {subject.variant.model} {subject.variant.quant}",
                    log_file=run.folder.path / ("server.log" if subject.place == CELLS else "baseline.log"),
                    on_wait=line.update,
                    on_note=run.note,
                    device_memory=devices.memory_used if devices else None,
                    device_busy=devices.busy if devices else None,
                )
                engine = stack.enter_context(server)
            _learn(run, subject, engine, engine.facts)
            running.append((subject, engine))
        yield tuple(running)
    for subject, engine in running:
        _learn(run, subject, engine, engine.facts.model_copy(update={"memory_returned": engine.after.memory_returned}))


def _learn(run: RunState, subject: Subject, engine: RunningEngine, facts: ServerFacts) -> None:
    """Store what a server reports about itself, also on disk: a resumed run needs it for the cells it has."""
    if subject.place == CELLS:
        run.engine_info, run.server = engine.info, facts
    else:
        run.baseline_info, run.baseline_server = engine.info, facts
    run.remember()


def measure_speed(run: RunState, served: Sequence[Served], shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Measure every shape on all servers and store each cell; return the shapes left if a server ended."""
    if not shapes:
        return ()
    find_device(run, served[0][1])
    return run_client(_sweep(run, served, shapes))


def find_device(run: RunState, engine: RunningEngine, *, again: bool = False) -> None:
    """Look up the device's limits once: a CPU is measured, the device of a remote server stays unknown."""
    if engine.child is None or (run.device is not None and not again):
        return
    interpreter = engine.engine.interpreter("the probe")
    with run.view.stage("measuring the device's limits"):
        threads = engine.engine.threads()
        run.device = device_here(interpreter or sys.executable, threads, cpu=_on_cpu(engine), again=again, say=run.note)
    run.remember()


def _expanded(run: RunState, subject: Subject, engine: RunningEngine) -> bool:
    """Return whether a server's memory shows that it expanded the weights, and note it in the record."""
    if subject.checkpoint is None:
        return False
    expanded_bytes = checkpoint_bytes(run.spec.model.architecture, None)
    reason = engine.engine.expanded(engine.facts, subject.checkpoint.manifest, expanded_bytes)
    if reason:
        run.note(f"{subject.variant.quant}: {reason}")
    return reason is not None


def _on_cpu(engine: RunningEngine) -> bool:
    return engine.info.device == "cpu"


def _unknown() -> None:
    """Return None: the memory of a remote server is unknown."""


def _above_limit(run: RunState, engine: RunningEngine, cell: MeasuredCell) -> str | None:
    """Return why a cell is faster than physically possible, or None; a measured CPU is measured again first."""
    reason: str | None = None
    for again in (False, True):
        if again:
            find_device(run, engine, again=True)
        cell_limit = limit_of(run.so_far(), cell)
        reason = exceeds(cell_limit, cell) if cell_limit else None
        if reason is None or run.device is None or not run.device.measured:
            return reason
    return reason


def _cards(facts: ServerFacts) -> int:
    return facts.devices * facts.replicas


def _lane(
    run: RunState, subject: Subject, engine: RunningEngine, client: Client, devices: Devices | None, *, paired: bool
) -> Lane:
    folder = subject.checkpoint.path if subject.checkpoint else None
    watched = None if engine.child is None or _on_cpu(engine) else devices
    memory: Callable[[], int | None] = _unknown
    if engine.child is not None:
        tree = TreeMemory(engine.child.pid)
        # For a pair of servers, the growth of used memory cannot be attributed if the driver does not list processes.
        before = (
            engine.memory_before_bytes[: _cards(engine.facts)] if engine.memory_before_bytes and not paired else None
        )
        memory = DeviceMemory(watched, tree, before) if watched else tree
    return Lane(
        client=client,
        variant=subject.variant,
        engine=engine.engine.name,
        emulated=engine.emulates or _expanded(run, subject, engine),
        facts=engine.facts,
        monitor=Monitor(memory, watched),
        alive=lambda: engine.alive(client.silent_s()),
        exceeds=lambda cell: _above_limit(run, engine, cell),
        vocabulary=engine.engine.vocabulary(run.spec.model.architecture, folder),
        nonce="" if client.flushes or not engine.engine.keeps_prefixes else secrets.token_hex(4),
        proves_cache=dialect(engine.engine.protocol).PROVES_CACHE,
        unproven=engine.engine.unproven(),
    )


def _as_served(spec: RunSpec, cell: SpeedCell) -> SpeedCell:
    """Return a cell with the context that it was served with."""
    warnings: tuple[str, ...] = ()
    if spec.yarn is not None:
        warnings = (f"YaRN: positions stretched {spec.yarn.factor:g} times, to {spec.yarn.length:,} tokens",)
    context = {"context_length": context_of(spec), "yarn": spec.yarn, "warnings": (*cell.warnings, *warnings)}
    return cell.model_copy(update=context)


async def _sweep(run: RunState, served: Sequence[Served], shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    left = list(shapes)
    async with contextlib.AsyncExitStack() as stack:
        devices = Devices.here(_cards(served[0][1].facts))
        if devices is not None:
            stack.enter_context(contextlib.closing(devices))
        lanes = []
        for subject, engine in served:
            client = Client(
                engine.base_url,
                protocol=engine.engine.protocol,
                total_timeout_s=engine.engine.config.request_timeout_s,
                first_token_timeout_s=engine.engine.config.first_token_timeout_s,
                stall_timeout_s=engine.engine.config.stall_timeout_s,
                api_key=engine.api_key,
                model=engine.engine.served_model,
                text_of=engine.engine.text_of(),
                keeps_prefixes=engine.engine.keeps_prefixes,
            )
            lanes.append(
                _lane(run, subject, engine, await stack.enter_async_context(client), devices, paired=len(served) > 1)
            )
        line = stack.enter_context(run.view.stage("speed", total=len(shapes)))
        cells = sweep(
            lanes,
            shapes,
            trials=run.spec.workload.trials,
            seed=run.spec.seed,
            on_progress=lambda text: line.update(detail=text),
        )
        async for shape_cells in cells:
            for (subject, _), cell in zip(served, shape_cells, strict=True):
                if cell.status in FINAL or shape_of(cell) not in final_shapes(run, subject):
                    run.folder.add_cell(_as_served(run.spec, cell), subject.place)
            left.remove(shape_of(shape_cells[0]))
            line.update(done=len(shapes) - len(left))
            if any(engine.ended for _, engine in served):
                break
    return tuple(left)
