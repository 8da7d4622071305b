"""The plan of a run, made before it starts: its stages, their keys, and whether it can work at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import SerializeAsAny

from bench.accuracy.tasks import answers_key, check_data, check_tasks, score_key
from bench.analysis.baseline import BASELINE
from bench.config.spec import QuantSpec, RunSpec, Workload
from bench.engines import ServedModel
from bench.errors import NotPossibleError, QuantizeError, SourceError
from bench.paths import cache_dir
from bench.speed.shapes import Shape, closed_loop
from bench.toolchains.backends import backend_interpreter, backend_versions, deciding_versions
from bench.toolchains.toolchain import interpreter_for
from quantize.calibration import heldout_identity
from quantize.calibration import identity as calibration_identity
from quantize.checkpoint import CheckpointError
from quantize.errors import SourceUnavailableError
from quantize.key import Frozen, Key
from quantize.method import Method
from quantize.source import Source
from quantize.texts import locate, set_names
from quantize.worker import Release

VERSION = {"source": 3, "quantize": 3, "proof": 1, "run": 3}
"""Version of each stage; increase it when a change of the code changes the stage's output."""
PROOF = ("torch", "transformers", "compressed_tensors")
"""Packages used by the proof of a quantized checkpoint."""
NO_BYTES = ("calibration", "max_kl")
"""Fields of a method that do not change the weights by themselves: the key has the identity of the text instead."""


class BuildStage(Frozen):
    """One checkpoint to build or reuse."""

    name: Literal["source", "quantize"]
    work: SerializeAsAny[Source | Method]
    identity: dict[str, Any]
    release: Release | None
    key: Key
    """Key of the weights."""
    proof: Key | None
    """Key of their proof; None where nothing is quantized."""
    target: Path
    libraries: dict[str, str]
    """Versions of the packages that affect the weights."""
    proof_libraries: dict[str, str]
    """Versions of the packages that affect the proof."""
    backend: str | None
    """Toolchain that quantizes the weights; None if the current interpreter does."""


class TaskStage(Frozen):
    """One accuracy task."""

    task: str
    key: Key
    answers: Key
    """Key of its answers."""
    repeat: int
    """1 for the repetition that measures differences by chance, else 0."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"{self.task}, repeated" if self.repeat else self.task


class Plan(Frozen):
    """The stages of one run, in order."""

    key: Key
    source: BuildStage | None
    """None for an external server, for which nothing is built."""
    quantize: BuildStage | None
    baseline: BuildStage | None
    """The checkpoint of the baseline, served next to the variant."""
    shapes: tuple[Shape, ...]
    tasks: tuple[TaskStage, ...]


def context_of(spec: RunSpec) -> int:
    """Return the longest prompt plus answer in tokens: the model's, unless a field of the engine changes it."""
    return spec.engine.context_length(spec.context_length)


def check(spec: RunSpec) -> None:
    """Check that the run can work, without access to the network or to data on disk.

    Raises:
        NotPossibleError: the method cannot work for the model.
        ConfigError: a task or its data does not exist.
        ToolchainError: a package is missing.
    """
    if not spec.engine.is_external:
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
            "baseline=… needs servers started by quantbench; measure an external baseline in a separate run"
        )
    check_tasks(spec.accuracy.tasks)
    check_data(spec.accuracy)
    engine = spec.engine
    for quant in (spec.quant, *([spec.baseline.quant] if spec.baseline else [])):
        form = quant.method.expected(spec.model.architecture).format
        model = ServedModel(
            architecture=spec.model.architecture,
            form=form,
            context_length=context_of(spec),
            yarn=spec.yarn,
            on_cpu=spec.hardware.on_cpu,
        )
        if reason := engine.refuses(model):
            raise NotPossibleError(f"quant={quant.name} on engine={engine.name}: {reason}")
    if spec.baseline and engine.parallelism.nodes > 1:
        raise NotPossibleError("baseline=… and engine.nnodes above 1: the two servers would need the same addresses")
    if spec.accuracy.tasks and (reason := engine.unscorable()):
        raise NotPossibleError(f"{reason}; add accuracy=none")
    if spec.workload.input_lens or spec.accuracy.tasks:
        engine.interpreter(f"engine={engine.name}")
    if spec.accuracy.tasks:
        interpreter_for(("lm_eval", "datasets"), f"accuracy={spec.accuracy.name}")


def _check_quant(spec: RunSpec, quant: QuantSpec, release: Source | None) -> None:
    calibration = quant.method.calibration
    try:
        if release is None:
            quant.method.check(spec.model.architecture)
            if calibration and calibration.set not in set_names():
                locate(calibration.set, "calibration")
    except (ValueError, CheckpointError) as error:
        raise NotPossibleError(f"{quant.name} for {spec.model.name}: {error}") from error
    backend = quant.method.backend
    if backend:
        interpreter_for(PROOF, f"quant={quant.name}")
        if release is None:
            backend_interpreter(backend, f"quant={quant.name}")


def _source_stage(spec: RunSpec) -> BuildStage:
    source = spec.model.source
    packages = source.packages
    interpreter_for(packages, f"model={spec.model.name}")
    try:
        identity = source.identity()
    except SourceUnavailableError as error:
        raise SourceError(f"model={spec.model.name}: {error}") from error
    architecture = spec.model.architecture.model_dump(mode="json")
    libraries = deciding_versions(packages)
    inputs = {"kind": source.kind, "identity": identity, "architecture": architecture, "libraries": libraries}
    key = Key(stage="source", version=VERSION["source"], inputs=inputs)
    return BuildStage(
        name="source",
        work=source,
        identity=identity,
        release=None,
        key=key,
        proof=None,
        target=cache_dir() / "sources" / f"{spec.model.name}-{key.digest[:12]}",
        libraries=libraries,
        proof_libraries={},
        backend=None,
    )


def _release(source: Source, what: str) -> Release:
    try:
        identity = source.identity()
    except SourceUnavailableError as error:
        raise SourceError(f"{what}: {error}") from error
    return Release(kind=source.kind, config=source.config.model_dump(mode="json"), identity=identity)


def _quantize_stage(spec: RunSpec, source: BuildStage, quant: QuantSpec, from_where: Source | None) -> BuildStage:
    method, config = quant.method, quant.method.config.model_dump(mode="json")
    inputs: dict[str, Any] = {"source": source.key.digest, "method": method.name}
    identity: dict[str, Any] = {}
    release = _release(from_where, f"quant.source of {quant.name}") if from_where else None
    libraries: dict[str, str] = {}
    heldout = None
    try:
        if method.backend:
            heldout = heldout_identity(spec.heldout)
        if release:
            scheme = method.expected(spec.model.architecture).model_dump(
                mode="json", exclude={"max_kl_nats", "nearest"}
            )
            inputs["release"] = {"kind": release.kind, **release.identity, "as": scheme}
        else:
            inputs["config"] = {name: value for name, value in config.items() if name not in NO_BYTES}
            libraries = backend_versions(method.backend) if method.backend else {}
            if method.calibration:
                identity["calibration"] = calibration_identity(method.calibration, spec.seed)
    except CheckpointError as error:
        raise QuantizeError(str(error)) from error
    key = Key(stage="quantize", version=VERSION["quantize"], inputs={**inputs, **identity, "libraries": libraries})
    proof, proof_libraries = None, {}
    if heldout is not None:
        identity["heldout"] = heldout
        proof_libraries = deciding_versions(PROOF)
        of_proof = {"checkpoint": key.digest, "heldout": heldout, "libraries": proof_libraries}
        proof = Key(stage="proof", version=VERSION["proof"], inputs=of_proof)
    return BuildStage(
        name="quantize",
        work=method,
        identity=identity,
        release=release,
        key=key,
        proof=proof,
        target=cache_dir() / "checkpoints" / f"{spec.model.name}-{quant.name}-{key.digest[:12]}",
        libraries=libraries,
        proof_libraries=proof_libraries,
        backend=None if release else method.backend,
    )


def shapes_of(workload: Workload) -> tuple[Shape, ...]:
    """Return the shapes of a workload: closed loops first, then open loops."""
    closed_loops = [
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
    open_loops = [
        Shape(
            input_len=length,
            output_len=workload.output_len,
            concurrency=workload.open_loop_concurrency,
            request_rate_per_s=rate,
            n_requests=workload.open_loop_requests,
            objective=workload.objective,
        )
        for rate in sorted(workload.request_rates)
        for length in workload.input_lens
    ]
    return (*closed_loops, *open_loops)


def _task_stages(spec: RunSpec, served: Key, versions: dict[str, str]) -> Iterator[TaskStage]:
    for repeat in (0, 1) if spec.accuracy.noise_floor and spec.quant.name == BASELINE else (0,):
        context = context_of(spec)
        answers = answers_key(
            served, engine=spec.engine, context_length=context, yarn=spec.yarn, versions=versions, repeat=repeat
        )
        for task in spec.accuracy.tasks:
            key = score_key(spec.accuracy, task, answers, seed=spec.seed)
            yield TaskStage(task=task, repeat=repeat, key=key, answers=answers)


def plan(spec: RunSpec) -> Plan:
    """Return the run's stages. May ask the hub for the commit of a revision.

    Raises:
        SourceError: the model's weights are unavailable.
    """
    source = quantize = baseline = None
    if not spec.engine.is_external:
        source = _source_stage(spec)
        quantize = _quantize_stage(spec, source, spec.quant, spec.release)
        if spec.baseline:
            baseline = _quantize_stage(spec, source, spec.baseline.quant, spec.baseline.release)
    server_versions = spec.engine.versions()
    served = quantize.key if quantize else Key(stage="attached", version=1, inputs=spec.engine.identity())
    shapes = shapes_of(spec.workload)
    tasks = tuple(_task_stages(spec, served, server_versions))
    inputs = {
        "variant": spec.variant.model_dump(mode="json"),
        "checkpoint": served.digest,
        "baseline": baseline.key.digest if baseline else None,
        "engine": spec.engine.model_dump(mode="json"),
        "code": spec.engine.code(),
        "context_length": context_of(spec),
        "yarn": spec.yarn and spec.yarn.model_dump(),
        "server": server_versions,
        "workload": spec.workload.model_dump(mode="json"),
        "tasks": [stage.key.digest for stage in tasks],
        "seed": spec.seed,
    }
    key = Key(stage="run", version=VERSION["run"], inputs=inputs)
    return Plan(key=key, source=source, quantize=quantize, baseline=baseline, shapes=shapes, tasks=tasks)
