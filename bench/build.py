"""Checkpoints: reuse the one with the same key, or have a worker build it. The reason is always told."""

import re
import resource
import shutil
import sys
import time
from pathlib import Path

import psutil

from bench.backends import backend_interpreter
from bench.errors import QuantizeError
from bench.paths import cache_dir
from bench.plan import BuildStage
from bench.process import Child
from bench.progress import Stage
from bench.spec import RunSpec
from bench.store import write_atomic
from quantize.checkpoint import MANIFEST_NAME, Checkpoint, CheckpointError, Manifest, check_complete, read_manifest
from quantize.worker import Job

POLL_SECONDS = 0.25


def find(stage: BuildStage) -> tuple[Checkpoint | None, str]:
    """Return (the stage's published checkpoint if it is whole, why it must be built if it is not)."""
    if not (stage.target / MANIFEST_NAME).exists():
        return None, f"no checkpoint with key {stage.key.digest[:12]} in {stage.target.parent}"
    try:
        manifest = read_manifest(stage.target)
        check_complete(stage.target, manifest)
    except CheckpointError as error:
        return None, f"the published one is damaged: {error}"
    reason = f"same key {stage.key.digest[:12]}, published {manifest.created_at}"
    return Checkpoint(path=stage.target, manifest=manifest, reused=True, reason=reason), reason


def check_room(stage: BuildStage, what: str) -> None:
    """Check that the build will fit into memory and on the disk.

    Raises:
        QuantizeError: it will not; with the figures.
    """
    place = stage.target.parent
    place.mkdir(parents=True, exist_ok=True)
    free, memory = shutil.disk_usage(place).free, available_memory()
    if stage.needs.disk > free:
        raise QuantizeError(
            f"{what} needs {stage.needs.disk / 1e9:.1f} GB on the disk of {place}, which has {free / 1e9:.1f} GB free; "
            "free some, or choose another place with QUANTBENCH_CACHE"
        )
    if stage.needs.memory > memory:
        raise QuantizeError(
            f"{what} needs about {stage.needs.memory / 1e9:.1f} GB of memory ({stage.needs.why}), and "
            f"{memory / 1e9:.1f} GB are free; use a larger machine, or less calibration (quant.calibration.n_samples=…)"
        )


def available_memory() -> int:
    """Return the bytes of memory that a child may take: what is free, and what this process's own limits allow."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min([psutil.virtual_memory().available, *(limit for limit in limits if limit != resource.RLIM_INFINITY)])


def _position(child: Child) -> str:
    """Return where a worker is, as its log tells: the decoder layer that is being calibrated, or the proof."""
    tail = child.log_tail(lines=2)
    counts = re.findall(r"\((\d+)/(\d+)\)", tail)
    if "proving" in tail:
        return "proving"
    return f"part {counts[-1][0]} of {counts[-1][1]}" if counts else ""


def build(stage: BuildStage, source: Path | None, spec: RunSpec, *, what: str, why: str, line: Stage) -> Checkpoint:
    """Have a worker build the stage's checkpoint, and return it.

    Args:
        stage: what to build.
        source: the 16-bit checkpoint it is made from, None for a source itself.
        spec: the run.
        what: a name for people.
        why: why it is not reused.
        line: progress.

    Raises:
        QuantizeError: the worker failed; with its reason and its log.
    """
    folder = cache_dir() / "jobs"
    job_file = folder / f"{stage.target.name}-{time.time_ns()}.json"
    log_file = job_file.with_suffix(".log")
    error_file = job_file.with_suffix(".error")
    job = Job(
        stage="source" if source is None else "quantize",
        module=stage.module,
        config=stage.config,
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
    )
    check_room(stage, what)
    write_atomic(job_file, job.model_dump_json(indent=1))
    argv = [sys.executable, "-m", "quantize.worker", str(job_file)]
    with Child(argv, what=what, log_file=log_file, env={}, cwd=Path.cwd()) as child:
        while child.exit_code is None:
            line.update(detail=_position(child))
            time.sleep(POLL_SECONDS)
        if child.exit_code != 0:
            said = f"{error_file.read_text()} (log: {log_file})" if error_file.exists() else child.how_it_ended()
            raise QuantizeError(f"{what} failed: {said}")
    manifest: Manifest = read_manifest(stage.target)
    for file in (job_file, log_file):
        file.unlink()
    return Checkpoint(path=stage.target, manifest=manifest, reused=False, reason=why)
