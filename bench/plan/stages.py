"""What a run will do, known before it does anything: its stages, their keys, and whether it can work at all."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.accuracy.tasks import answers_key, check_data, check_tasks, score_key
from bench.config.plugins import plugin
from bench.config.spec import PartSpec, RunSpec, Workload
from bench.errors import NotPossibleError, QuantizeError, SourceError
from bench.paths import cache_dir
from bench.speed.shapes import Shape, closed_loop
from bench.toolchains.backends import backend_interpreter, backend_versions, versions
from bench.toolchains.toolchain import interpreter_for
from quantize.calibration import heldout_identity
from quantize.calibration import identity as calibration_identity
from quantize.checkpoint import CheckpointError
from quantize.key import Frozen, Key
from quantize.sources import SourceUnavailableError
from quantize.texts import locate, set_names
from quantize.worker import Release

VERSION = {"source": 3, "quantize": 2, "run": 2}
"""Raise a stage's number when its code changes what it produces."""
PROOF = ("torch", "transformers", "compressed_tensors")
"""Packages that the proof of a quantized checkpoint runs on."""
NO_BYTES = ("calibration", "max_kl")
"""Fields of a method that change no weight by themselves: the text stands in the key by its own identity."""


class BuildStage(Frozen):
    """One checkpoint to be built, or found."""

    name: str
    module: str
    config: dict[str, Any]
    identity: dict[str, Any]
    release: Release | None
    key: Key
    target: Path
    libraries: dict[str, str]
    """Versions of the packages that change the result."""
    backend: str | None
    """Toolchain that makes the weights; None for one that the current interpreter always is."""


UNQUANTIZED = "bf16"
"""The quantization that the others are compared with."""


class TaskStage(Frozen):
    """One accuracy task."""

    task: str
    key: Key
    answers: Key
    """What the answers to its questions depend on."""
    repeat: int
    """1 for the second time, which shows how much differs by chance."""

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.task}, once more" if self.repeat else self.task


class Plan(Frozen):
    """Everything one run will do, in order."""

    key: Key
    source: BuildStage | None
    """None where a server that somebody else runs is measured: nothing is built then."""
    quantize: BuildStage | None
    baseline: BuildStage | None
    """The checkpoint that is served beside the other one."""
    shapes: tuple[Shape, ...]
    tasks: tuple[TaskStage, ...]


def context_of(spec: RunSpec) -> int:
    """Return the longest prompt plus answer in tokens: the model's, or what the engine's own fields make of it."""
    engine = plugin("bench.engines", spec.engine.module)
    if not hasattr(engine, "context"):
        return spec.context_length
    longest: int = engine.context(engine.Config.model_validate(spec.engine.config), spec.context_length)
    return longest


def is_attached(spec: RunSpec) -> bool:
    """Tell whether the run measures a server that somebody else runs."""
    engine = plugin("bench.engines", spec.engine.module)
    return engine.address(engine.Config.model_validate(spec.engine.config)) is not None


def check(spec: RunSpec) -> None:
    """Check, without touching the network or the disk's contents, that the run can work.

    Raises:
        NotPossibleError: the method cannot work for the model.
        ConfigError: a task or its data does not exist.
        ToolchainError: a package is missing.
    """
    attached = is_attached(spec)
    if not attached:
        _check_quant(spec, spec.quant, spec.release)
        if spec.baseline:
            _check_quant(spec, spec.baseline.quant, spec.baseline.release)
        try:
            if spec.heldout.set not in set_names():
                locate(spec.heldout.set, "heldout")
        except CheckpointError as error:
            raise NotPossibleError(str(error)) from error
    elif spec.baseline:
        raise NotPossibleError(
            "baseline=… needs servers that are started here; measure the other one by a run of its own"
        )
    check_tasks(spec.accuracy.tasks)
    check_data(spec.accuracy)
    engine = plugin("bench.engines", spec.engine.module)
    config = engine.Config.model_validate(spec.engine.config)
    for quant in (spec.quant, *([spec.baseline.quant] if spec.baseline else [])):
        method = plugin("quantize.methods", quant.module)
        form = method.expected(method.Config.model_validate(quant.config), spec.model.architecture).format
        if reason := engine.refuses(config, form):
            raise NotPossibleError(f"quant={quant.name} on engine={spec.engine.name}: {reason}")
    if spec.baseline and getattr(config, "nnodes", 1) > 1:
        raise NotPossibleError("baseline=… and engine.nnodes above 1: the two servers would need the same addresses")
    if spec.accuracy.tasks and (reason := _unscorable(spec, engine, config)):
        raise NotPossibleError(f"{reason}; add accuracy=none")
    if spec.workload.input_lens or spec.accuracy.tasks:
        engine.interpreter(config, f"engine={spec.engine.name}")
    if spec.accuracy.tasks:
        interpreter_for(("lm_eval", "datasets"), f"accuracy={spec.accuracy.name}")


def _unscorable(spec: RunSpec, engine: ModuleType, config: Any) -> str | None:
    """Return why accuracy tasks cannot run over an engine; None if they can, or if only a try can tell."""
    if not engine.SCORES:
        return f"engine={spec.engine.name} measures speed only"
    if getattr(config, "skip_tokenizer_init", False):
        return "engine.skip_tokenizer_init=true gives no text for accuracy tasks"
    reason: str | None = engine.unscorable(config) if hasattr(engine, "unscorable") else None
    return reason


def _check_quant(spec: RunSpec, quant: PartSpec, release: dict[str, Any] | None) -> None:
    method = plugin("quantize.methods", quant.module)
    config = method.Config.model_validate(quant.config)
    try:
        if release is None:
            method.check(config, spec.model.architecture)
            if quant.config.get("calibration") and config.calibration.set not in set_names():
                locate(config.calibration.set, "calibration")
    except (ValueError, CheckpointError) as error:
        raise NotPossibleError(f"{quant.name} for {spec.model.name}: {error}") from error
    backend = quant.config.get("backend")
    if backend:
        interpreter_for(PROOF, f"quant={quant.name}")
        if release is None:
            backend_interpreter(backend, f"quant={quant.name}")


def _source_stage(spec: RunSpec) -> BuildStage:
    kind = str(spec.model.source["kind"])
    module = plugin("quantize.sources", kind)
    fields = {name: value for name, value in spec.model.source.items() if name != "kind"}
    config = module.Config.model_validate(fields)
    packages = module.needs(config)
    interpreter_for(packages, f"model={spec.model.name}")
    try:
        identity = module.identity(config)
    except SourceUnavailableError as error:
        raise SourceError(f"model={spec.model.name}: {error}") from error
    architecture = spec.model.architecture.model_dump(mode="json")
    libraries = versions(packages)
    inputs = {"kind": kind, "identity": identity, "architecture": architecture, "libraries": libraries}
    key = Key(stage="source", version=VERSION["source"], inputs=inputs)
    return BuildStage(
        name="source",
        module=kind,
        config=config.model_dump(mode="json"),
        identity=identity,
        release=None,
        key=key,
        target=cache_dir() / "sources" / f"{spec.model.name}-{key.digest[:12]}",
        libraries=libraries,
        backend=None,
    )


def _release(fields: dict[str, Any], what: str) -> Release:
    kind = str(fields["kind"])
    module = plugin("quantize.sources", kind)
    config = module.Config.model_validate({name: value for name, value in fields.items() if name != "kind"})
    try:
        identity = module.identity(config)
    except SourceUnavailableError as error:
        raise SourceError(f"{what}: {error}") from error
    return Release(kind=kind, config=config.model_dump(mode="json"), identity=identity)


def _quantize_stage(
    spec: RunSpec, source: BuildStage, quant: PartSpec, from_where: dict[str, Any] | None
) -> BuildStage:
    module = plugin("quantize.methods", quant.module)
    config = module.Config.model_validate(quant.config)
    backend = quant.config.get("backend")
    inputs: dict[str, Any] = {"source": source.key.digest, "method": quant.module}
    identity: dict[str, Any] = {}
    release = _release(from_where, f"quant.source of {quant.name}") if from_where else None
    libraries: dict[str, str] = {}
    try:
        if backend:
            identity["heldout"] = heldout_identity(spec.heldout)
            libraries = {f"proof:{name}": version for name, version in versions(PROOF).items()}
        if release:
            asked = module.expected(config, spec.model.architecture).model_dump(mode="json", exclude={"max_kl"})
            inputs["release"] = {"kind": release.kind, **release.identity, "as": asked}
        else:
            inputs["config"] = {name: value for name, value in quant.config.items() if name not in NO_BYTES}
            libraries |= backend_versions(backend) if backend else {}
            if quant.config.get("calibration"):
                identity["calibration"] = calibration_identity(config.calibration, spec.seed)
    except CheckpointError as error:
        raise QuantizeError(str(error)) from error
    key = Key(stage="quantize", version=VERSION["quantize"], inputs={**inputs, **identity, "libraries": libraries})
    return BuildStage(
        name="quantize",
        module=quant.module,
        config=quant.config,
        identity=identity,
        release=release,
        key=key,
        target=cache_dir() / "checkpoints" / f"{spec.model.name}-{quant.name}-{key.digest[:12]}",
        libraries=libraries,
        backend=None if release else backend,
    )


def shapes_of(workload: Workload) -> tuple[Shape, ...]:
    """Return every shape of a workload: its closed loops, then its open ones."""
    closed = [
        closed_loop(
            length,
            workload.output_len,
            concurrency,
            per_slot=workload.requests_per_slot,
            objective=workload.objective,
        )
        for concurrency in workload.concurrency
        for length in workload.input_lens
    ]
    opened = [
        Shape(
            input_len=length,
            output_len=workload.output_len,
            concurrency=workload.open_loop_concurrency,
            request_rate=rate,
            n_requests=workload.open_loop_requests,
            objective=workload.objective,
        )
        for rate in sorted(workload.request_rates)
        for length in workload.input_lens
    ]
    return (*closed, *opened)


def _task_stages(spec: RunSpec, served: Key, versions: dict[str, str]) -> Iterator[TaskStage]:
    for repeat in (0, 1) if spec.accuracy.noise_floor and spec.quant.name == UNQUANTIZED else (0,):
        context = context_of(spec)
        answers = answers_key(
            served, engine=spec.engine, context_length=context, yarn=spec.yarn, versions=versions, repeat=repeat
        )
        for task in spec.accuracy.tasks:
            key = score_key(spec.accuracy, task, answers, seed=spec.seed)
            yield TaskStage(task=task, repeat=repeat, key=key, answers=answers)


def plan(spec: RunSpec) -> Plan:
    """Return the run's stages. May ask a hub which commit a revision is.

    Raises:
        SourceError: the model's weights cannot be had.
    """
    source = quantize = baseline = None
    if not is_attached(spec):
        source = _source_stage(spec)
        quantize = _quantize_stage(spec, source, spec.quant, spec.release)
        if spec.baseline:
            baseline = _quantize_stage(spec, source, spec.baseline.quant, spec.baseline.release)
    engine = plugin("bench.engines", spec.engine.module)
    config = engine.Config.model_validate(spec.engine.config)
    server_versions = engine.versions(config) if hasattr(engine, "versions") else {}
    served = quantize.key if quantize else Key(stage="attached", version=1, inputs=spec.engine.config)
    shapes = shapes_of(spec.workload)
    tasks = tuple(_task_stages(spec, served, server_versions))
    inputs = {
        "variant": spec.variant.model_dump(mode="json"),
        "checkpoint": served.digest,
        "baseline": baseline.key.digest if baseline else None,
        "engine": spec.engine.model_dump(mode="json"),
        "context_length": context_of(spec),
        "yarn": spec.yarn and spec.yarn.model_dump(),
        "server": server_versions,
        "workload": spec.workload.model_dump(mode="json"),
        "tasks": [stage.key.digest for stage in tasks],
        "seed": spec.seed,
    }
    key = Key(stage="run", version=VERSION["run"], inputs=inputs)
    return Plan(key=key, source=source, quantize=quantize, baseline=baseline, shapes=shapes, tasks=tasks)
