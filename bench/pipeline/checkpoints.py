"""Reuse the checkpoint with the same key, or build it in a worker, with the reason."""

import re
import shutil
import sys
import time
from pathlib import Path

from bench import format as fmt
from bench.config.spec import RunSpec
from bench.console import Stage
from bench.errors import QuantizeError
from bench.files import write_atomic
from bench.machine.child import POLL_S, Child
from bench.machine.threads import waiting
from bench.paths import cache_dir
from bench.plan.stages import BuildStage
from bench.toolchains.backends import backend_interpreter
from quantize.ceiling import too_far
from quantize.checkpoint import (
    MANIFEST_NAME,
    Checkpoint,
    CheckpointError,
    Manifest,
    check_complete,
    read_manifest,
    weight_files,
)
from quantize.estimate import Needs, estimate
from quantize.memory import available_memory
from quantize.method import Method
from quantize.source import Source
from quantize.worker import BuildJob

HELDOUT_SAMPLES = 100
"""Windows assumed if a complete text is used. Chosen: more than the embedded text has."""


def find(stage: BuildStage) -> tuple[Checkpoint | None, str]:
    """Return (the stage's published checkpoint if it is complete, else None; the reason).

    Raises:
        QuantizeError: it is complete, but its KL to the source is above the requested ceiling.
    """
    if not (stage.target / MANIFEST_NAME).exists():
        return None, f"no checkpoint with key {stage.key.digest[:12]} in {stage.target.parent}"
    try:
        manifest = read_manifest(stage.target)
        check_complete(stage.target, manifest)
        if manifest.key != stage.key:
            raise CheckpointError("it was built with another key")
    except CheckpointError as error:
        return None, f"the published one is damaged: {error}"
    if manifest.proof_key != stage.proof:
        return None, "the published one was proven on other text or with other libraries"
    limit = stage.work.max_kl if isinstance(stage.work, Method) else None
    if manifest.fidelity and (reason := too_far(manifest.fidelity, limit)):
        raise QuantizeError(f"the published {stage.target.name} is not accepted: {reason}")
    reason = f"same key {stage.key.digest[:12]}, published {manifest.created_at}"
    return Checkpoint(path=stage.target, manifest=manifest, reused=True, reason=reason), reason


def needs_of(stage: BuildStage, source: Path | None, spec: RunSpec) -> Needs:
    """Return the memory and disk space that a build needs: for a source its own size, else by its method."""
    architecture = spec.model.architecture
    if isinstance(stage.work, Source):
        stage.target.parent.mkdir(parents=True, exist_ok=True)
        disk = stage.work.new_bytes(stage.identity, architecture, stage.target.parent)
        return Needs(memory_bytes=0, disk_bytes=disk, why="the 16-bit checkpoint")
    assert source is not None
    form = stage.work.expected(architecture).format
    return estimate(
        architecture,
        None if stage.release else stage.work.calibrating(architecture),
        heldout=(spec.heldout.n_samples or HELDOUT_SAMPLES, spec.heldout.max_seq_len),
        bits=form.bits if form else None,
        shard=max(file.stat().st_size for file in weight_files(source)),
    )


def check_room(needs: Needs, place: Path, what: str) -> None:
    """Check that a build fits into memory and on the disk.

    Raises:
        QuantizeError: it does not; with the sizes.
    """
    place.mkdir(parents=True, exist_ok=True)
    free, memory = shutil.disk_usage(place).free, available_memory()
    if needs.disk_bytes > free:
        raise QuantizeError(
            f"{what} needs {fmt.space(needs.disk_bytes)} on the disk of {place}, which has {fmt.space(free)} free; "
            "free some space, or choose another folder with QUANTBENCH_CACHE"
        )
    if needs.memory_bytes > memory:
        raise QuantizeError(
            f"{what} needs about {fmt.space(needs.memory_bytes)} of memory ({needs.why}), and {fmt.space(memory)} is "
            "free; use a larger machine, or a method or calibration that needs less"
        )


def _position(child: Child) -> str:
    """Return a worker's progress from its log: the decoder layer that is being calibrated, or the proof."""
    tail = child.last_lines(2)
    counts = re.findall(r"\((\d+)/(\d+)\)", tail)
    if "proving" in tail:
        return "proving"
    return f"part {counts[-1][0]} of {counts[-1][1]}" if counts else ""


def build(stage: BuildStage, source: Path | None, spec: RunSpec, *, what: str, why: str, line: Stage) -> Checkpoint:
    """Build the stage's checkpoint in a worker and return it.

    Args:
        stage: what to build.
        source: the 16-bit checkpoint to quantize; None to build the source itself.
        spec: the run.
        what: name for messages.
        why: why no checkpoint is reused.
        line: progress line.

    Raises:
        QuantizeError: the worker failed; with its reason and log file.
    """
    folder = cache_dir() / "jobs"
    job_file = folder / f"{stage.target.name}-{time.time_ns()}.json"
    log_file = job_file.with_suffix(".log")
    error_file = job_file.with_suffix(".error")
    job = BuildJob(
        stage=stage.name,
        module=stage.work.kind if isinstance(stage.work, Source) else stage.work.name,
        config=stage.work.config.model_dump(mode="json"),
        identity=stage.identity,
        release=stage.release,
        key=stage.key,
        architecture=spec.model.architecture,
        seed=spec.seed,
        heldout=spec.heldout,
        interpreter=backend_interpreter(stage.backend, what) if stage.backend else sys.executable,
        source=source,
        target=stage.target,
        libraries=stage.libraries,
        proof_key=stage.proof,
        proof_libraries=stage.proof_libraries,
    )
    needs = needs_of(stage, source, spec)
    has_weights = stage.target.with_name(f"{stage.target.name}.cost").exists() or stage.target.exists()
    if not has_weights:
        check_room(needs, stage.target.parent, what)
    write_atomic(job_file, job.model_dump_json(indent=1))
    argv = [sys.executable, "-m", "quantize.worker", str(job_file)]
    with Child(argv, what=what, log_file=log_file, env=waiting(), cwd=Path.cwd()) as child:
        while child.exit_code is None:
            line.update(detail=_position(child))
            time.sleep(POLL_S)
        if child.exit_code != 0:
            reason = f"{error_file.read_text()} (log: {log_file})" if error_file.exists() else child.how_it_ended()
            raise QuantizeError(f"{what} failed: {reason}")
    manifest: Manifest = read_manifest(stage.target)
    for file in (job_file, log_file):
        file.unlink()
    return Checkpoint(path=stage.target, manifest=manifest, reused=False, reason=why)
