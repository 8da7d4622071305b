"""``python -m quantize.worker JOB.json``: build one checkpoint, prove it and publish it.

A separate process produces the weights, with the interpreter of the toolchain that the method needs
(:mod:`quantize.step`); the proof runs here. Only one process at a time builds a target; the next one cleans up after a
killed one, or resumes from weights that it had written. The worker ends with its parent. It reports a failure as one
line in ``JOB.error``, with exit code 1.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from quantize import locks
from quantize.architecture import Architecture
from quantize.backend import QuantizeResult
from quantize.calibration import calibration_samples, heldout_windows
from quantize.checkpoint import (
    CalibrationFact,
    CheckpointError,
    Manifest,
    check_complete,
    check_hashes,
    count_dtypes,
    hash_folder,
    own_code,
    publish,
    read_manifest,
    read_quantization,
    sync_tree,
    tensors,
    weight_files,
    with_units,
    write_manifest,
)
from quantize.clock import utc_now
from quantize.errors import explain_failure
from quantize.imports import import_transformers
from quantize.key import Frozen, Key
from quantize.method import Expected, method
from quantize.parent import end_with_parent
from quantize.proof import expected_of_release
from quantize.reader import Reader
from quantize.search_path import search_path
from quantize.source import source
from quantize.step import Step
from quantize.texts import HeldoutConfig
from quantize.verdict import ProofJob, RefusedError, prove_all, prove_form

RELEASED = "taken as released, not quantized here"
PROVES = "proof:"
"""Prefix of the names of packages that compute the proof, among those of a manifest."""

log = logging.getLogger("quantize.worker")


class Release(Frozen):
    """An already quantized checkpoint that is used unchanged."""

    kind: str
    """Module in ``quantize.sources``."""
    config: dict[str, Any]
    identity: dict[str, Any]


class BuildJob(Frozen):
    """The checkpoint that the worker builds."""

    stage: Literal["source", "quantize"]
    module: str
    """Module in ``quantize.sources`` or ``quantize.methods``."""
    config: dict[str, Any]
    identity: dict[str, Any]
    """Identity of the source; for ``quantize`` the identity of the texts, as planned."""
    release: Release | None
    key: Key
    architecture: Architecture
    seed: int
    heldout: HeldoutConfig
    interpreter: str
    """Python of the toolchain that produces the weights."""
    source: Path | None
    """Folder of the 16-bit checkpoint; None for ``source``."""
    target: Path
    libraries: dict[str, str]
    """Versions of the packages that change the weights."""
    proof_key: Key | None
    """Key of the proof; None where nothing is quantized."""
    proof_libraries: dict[str, str]
    """Versions of the packages that compute the proof."""

    def sibling(self, suffix: str) -> Path:
        """Return the path next to the target with a suffix appended to its name."""
        return self.target.with_name(f"{self.target.name}.{suffix}")


class StepFailedError(Exception):
    """Producing the weights failed; its text is a one-line message."""


@contextlib.contextmanager
def only_builder(job: BuildJob) -> Iterator[int]:
    """Hold the target's lock and yield its file descriptor; wait while another process builds the same target.

    The process that produces the weights inherits the descriptor, so that the lock is held until it has ended too.
    """
    job.target.parent.mkdir(parents=True, exist_ok=True)
    with locks.held(job.sibling("lock"), lambda: log.info("waiting: another run builds %s", job.target.name)) as lock:
        yield lock


def _materialize(kind: str, config: dict[str, Any], identity: dict[str, Any], job: BuildJob, work: Path) -> str:
    return source({"kind": kind, **config}).materialize(identity, job.architecture, work)


def _tokenizer(job: BuildJob) -> Any:
    import_transformers()
    from transformers import AutoTokenizer

    assert job.source is not None
    return AutoTokenizer.from_pretrained(job.source, local_files_only=True, trust_remote_code=own_code(job.source))


def _run_step(job: BuildJob, samples: list[list[int]], work: Path, lock: int) -> QuantizeResult:
    """Produce the weights in a separate process and return its result.

    A different interpreter can import ``quantize`` but none of this interpreter's other packages.
    """
    assert job.source is not None
    file = job.sibling("step")
    step = Step(
        method=job.module,
        config=job.config,
        architecture=job.architecture,
        source=job.source,
        target=work,
        samples=tuple(map(tuple, samples)),
    )
    file.write_text(step.model_dump_json())
    result_file, error_file = job.sibling("made"), job.sibling("error")
    error_file.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as packages:
        environment = {**os.environ, **search_path(job.interpreter)}
        if job.interpreter != sys.executable:
            (Path(packages) / "quantize").symlink_to(Path(__file__).resolve().parent)
            environment["PYTHONPATH"] = packages
        with subprocess.Popen(
            [job.interpreter, "-m", "quantize.step", str(file)],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=(lock,),
        ) as child:
            code = child.wait()
    file.unlink()
    if code != 0 or not result_file.exists():
        message = error_file.read_text() if error_file.exists() else ""
        message = message or f"producing the weights ended with code {code}"
        message += " (out of memory?)" if code == -9 else ""
        error_file.unlink(missing_ok=True)
        raise StepFailedError(message)
    return QuantizeResult.model_validate_json(result_file.read_bytes())


def _make(job: BuildJob, work: Path, lock: int) -> tuple[QuantizeResult, CalibrationFact | None, dict[str, Any]]:
    """Write the weights, or reuse those of a killed builder; return (result, calibration, cost)."""
    notes: tuple[str, ...] = ()
    calibration = None
    cost_file = job.sibling("cost")
    config = method(job.module, job.config).calibration
    if job.release is None and config is not None:
        tokenizer = _tokenizer(job)
        planned = job.identity.get("calibration")
        samples, calibration, notes = calibration_samples(config, job.seed, tokenizer, planned)
    else:
        samples = []
    if cost_file.exists() and work.is_dir():
        log.info("resuming with weights that are already written: %s", work.name)
        result = QuantizeResult.model_validate_json(job.sibling("made").read_bytes())
        return (
            result.model_copy(update={"notes": (*notes, *result.notes)}),
            calibration,
            with_units(json.loads(cost_file.read_text())),
        )
    _remove(job, work)
    work.mkdir(parents=True)
    begin = time.monotonic()
    if job.release:
        provenance = _materialize(job.release.kind, job.release.config, job.release.identity, job, work)
        result = QuantizeResult(notes=(f"{RELEASED}: {provenance}",))
        job.sibling("made").write_text(result.model_dump_json())
    else:
        result = _run_step(job, samples, work, lock)
    peak = _peak_rss(children=not job.release)
    cost = {"build_s": time.monotonic() - begin, "peak_rss_bytes": peak}
    # Written last and atomically: weights with a cost file are complete.
    part = job.sibling("cost.part")
    part.write_text(json.dumps(cost))
    sync_tree(work)
    part.replace(cost_file)
    return result.model_copy(update={"notes": (*notes, *result.notes)}), calibration, cost


def _remove(job: BuildJob, work: Path) -> None:
    """Remove the remains of a killed builder."""
    if work.exists():
        log.info("removing the remains of an earlier build: %s", work.name)
        shutil.rmtree(work)
    for suffix in ("cost", "cost.part", "made", "step", "error"):
        job.sibling(suffix).unlink(missing_ok=True)


def _expected(job: BuildJob, written: Reader) -> Expected:
    expected = method(job.module, job.config).expected(job.architecture)
    return expected_of_release(written, expected, job.module) if job.release else expected


def _prove(job: BuildJob, folder: Path) -> dict[str, Any]:
    """Prove the weights in ``folder`` and return the facts for the manifest.

    Raises:
        RefusedError: they are not what the scheme says, or too far from their source.
        CheckpointError: the source or the held-out text cannot be read.
    """
    assert job.source is not None
    begin = time.monotonic()
    try:
        expected = _expected(job, Reader(folder))
    except CheckpointError as error:
        raise RefusedError(str(error)) from error
    facts = prove_form(job.source, folder, expected)
    if expected.format is not None:
        windows = heldout_windows(job.heldout, _tokenizer(job), job.identity.get("heldout"))
        against = ProofJob(
            source=job.source,
            source_digest=read_manifest(job.source).key.digest,
            expected=expected,
            architecture=job.architecture,
            text_id=job.heldout.set,
            windows=tuple(map(tuple, windows)),
            libraries=job.proof_libraries,
            cache=job.target.parent.parent / "rounding",
        )
        facts |= prove_all(against, folder, lambda what: log.info("proving: %s", what))
    return {
        **facts,
        "proof_key": job.proof_key,
        "proof_s": time.monotonic() - begin,
        "proof_peak_rss_bytes": _peak_rss(children=False),
    }


def _published(job: BuildJob) -> Manifest | None:
    """Return the manifest of the job's checkpoint if it is published and complete, whatever was proven about it."""
    if not job.target.is_dir():
        return None
    try:
        manifest = read_manifest(job.target)
        check_complete(job.target, manifest)
    except CheckpointError:
        return None
    return manifest if manifest.key == job.key else None


def _prove_published(job: BuildJob, manifest: Manifest) -> None:
    """Prove a published checkpoint on other text or with other libraries, and replace what its manifest says of it.

    Raises:
        RefusedError: the proof fails; the checkpoint stays published with its earlier proof.
    """
    log.info("the weights of %s are published; proving them", job.target.name)
    try:
        check_hashes(job.target, manifest)
        facts = _prove(job, job.target)
    except RefusedError as error:
        raise RefusedError(f"{error}; {job.target} keeps its earlier proof") from error
    old = {name: version for name, version in manifest.libraries.items() if not name.startswith(PROVES)}
    libraries = {**old, **_proof_libraries(job)}
    write_manifest(job.target, manifest.model_copy(update={**facts, "libraries": libraries}))


def _proof_libraries(job: BuildJob) -> dict[str, str]:
    return {f"{PROVES}{name}": version for name, version in job.proof_libraries.items()}


def _manifest(job: BuildJob, work: Path, lock: int) -> Manifest:
    """Build and prove the checkpoint in ``work`` and return its manifest."""
    facts: dict[str, Any] = {"calibration": None, "experts_reached": None, "fidelity": None, "layer_errors": ()}
    facts |= {"canaries": None, "notes": (), "format": None, "bits_per_quantized_weight": None}
    if job.stage == "source":
        _remove(job, work)
        work.mkdir(parents=True)
        begin = time.monotonic()
        facts["provenance"] = _materialize(job.module, job.config, job.identity, job, work)
        cost: dict[str, Any] = {"build_s": time.monotonic() - begin, "peak_rss_bytes": _peak_rss(children=False)}
        facts |= {"proof_s": 0.0, "proof_peak_rss_bytes": _peak_rss(children=False)}
    else:
        assert job.source is not None
        result, calibration, cost = _make(job, work, lock)
        facts |= _prove(job, work)
        facts |= {"calibration": calibration, "experts_reached": result.experts_reached}
        facts["notes"] = result.notes
        facts["provenance"] = read_manifest(job.source).provenance
    return Manifest(
        key=job.key,
        files=hash_folder(work),
        tensors_by_dtype=count_dtypes(list(tensors(work))),
        checkpoint_bytes=sum(file.stat().st_size for file in weight_files(work)),
        quantization_config=read_quantization(work),
        libraries={**job.libraries, **_proof_libraries(job)},
        seed=job.seed,
        created_at=utc_now(),
        **cost,
        **facts,
    )


def _peak_rss(*, children: bool) -> int:
    """Return the highest resident memory in bytes of this process, or of the largest of its ended children."""
    # Imported here because the plan imports this file on systems without that module.
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss * 1024


def build(job: BuildJob) -> None:
    """Build and publish the job's checkpoint, unless another process has just done so.

    Raises:
        RefusedError: the result is not what its scheme says; it is kept as ``TARGET.refused``.
        StepFailedError: producing the weights failed.
        SourceUnavailableError: the source's weights are unavailable.
    """
    with only_builder(job) as lock:
        if published := _published(job):
            if published.proof_key != job.proof_key:
                _prove_published(job, published)
            log.info("%s is published", job.target.name)
            return
        work, refused = job.sibling("work"), job.sibling("refused")
        if refused.exists() and job.sibling("cost").exists():
            log.info("proving a refused checkpoint again; delete %s to build it again", refused)
            shutil.rmtree(work, ignore_errors=True)
            refused.rename(work)
        try:
            manifest = _manifest(job, work, lock)
        except Exception as error:
            if not job.sibling("cost").exists():
                _remove(job, work)
                raise
            if not isinstance(error, RefusedError):
                raise  # the weights are complete: the next run resumes with the proof
            shutil.rmtree(refused, ignore_errors=True)
            work.rename(refused)
            raise RefusedError(
                f"{error}; not published, but kept in {refused} (delete it to build it again)"
            ) from error
        publish(work, job.target, manifest)
        _remove(job, work)
        shutil.rmtree(refused, ignore_errors=True)


def main(argv: list[str]) -> int:
    """Run the job file named by the only argument and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job_file = Path(argv[0])
    end_with_parent()
    try:
        build(BuildJob.model_validate_json(job_file.read_bytes()))
    except StepFailedError as error:
        message = str(error)
    except Exception as error:  # noqa: BLE001 - the boundary of the process: any error becomes one line and a log
        message = explain_failure(error)
    else:
        return 0
    job_file.with_suffix(".error").write_text(message)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
