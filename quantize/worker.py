"""``python -m quantize.worker JOB.json``: builds one checkpoint inside a toolchain's interpreter.

Reads a job, builds in a folder beside the target, proves the result, publishes it. One builder per target at a time;
leftovers of a builder that was killed are removed by the next. Ends with its parent: its standard input is a pipe
that the parent holds, and its end is the parent's end. A failure is told as one line in ``JOB.error``, exit code 1.
"""

import contextlib
import fcntl
import importlib
import importlib.metadata
import json
import logging
import os
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from quantize import proof
from quantize.calibration import calibration_samples
from quantize.checkpoint import (
    CheckpointError,
    Manifest,
    check_complete,
    count_dtypes,
    hash_folder,
    publish,
    read_manifest,
    tensors,
    weight_files,
)
from quantize.fidelity import measure
from quantize.key import Frozen, Key
from quantize.methods import Architecture
from quantize.sources import SourceUnavailableError

log = logging.getLogger("quantize.worker")


class Job(Frozen):
    """What the worker is asked to build."""

    stage: Literal["source", "quantize"]
    module: str
    """Module below ``quantize.sources`` or ``quantize.methods``."""
    config: dict[str, Any]
    identity: dict[str, Any]
    """What the source's module returned; empty for ``quantize``."""
    key: Key
    architecture: Architecture
    seed: int
    source: Path | None
    """Folder of the 16-bit checkpoint; None for ``source``."""
    target: Path
    libraries: tuple[str, ...]
    """Packages whose versions belong into the manifest."""


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each package."""
    return {name: importlib.metadata.version(name) for name in packages}


@contextlib.contextmanager
def only_builder(target: Path) -> Iterator[None]:
    """Hold the lock beside ``target``; wait, and say so, while another process builds the same checkpoint."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting: another run builds %s", target.name)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _build_source(job: Job, work: Path) -> dict[str, Any]:
    module = importlib.import_module(f"quantize.sources.{job.module}")
    config = module.Config.model_validate(job.config)
    provenance = module.materialize(config, job.identity, job.architecture, work)
    return {"provenance": provenance, "calibration": None, "fidelity": None, "notes": ()}


def _build_quantized(job: Job, work: Path) -> dict[str, Any]:
    assert job.source is not None
    module = importlib.import_module(f"quantize.methods.{job.module}")
    config = module.Config.model_validate(job.config)
    samples: list[list[int]] = []
    calibration = None
    notes: tuple[str, ...] = ()
    if "calibration" in job.config:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(job.source, local_files_only=True)
        samples, calibration, notes = calibration_samples(config.calibration, job.seed, tokenizer)
    more_notes = module.quantize(config, job.architecture, job.source, work, samples)
    expected = module.expected(config)
    bits = proof.prove(list(tensors(job.source)), list(tensors(work)), expected)
    return {
        "provenance": read_manifest(job.source).provenance,
        "calibration": calibration,
        "fidelity": measure(job.source, work) if expected.weight_suffix else None,
        "notes": (*notes, *more_notes),
        "bits_per_quantized_weight": bits,
    }


def _quantization_config(folder: Path) -> dict[str, Any] | None:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config.get("quantization_config")


def build(job: Job) -> None:
    """Build and publish the job's checkpoint, unless another process has just done so.

    Raises:
        CheckpointError: the result is not what its scheme says; it is kept aside as ``TARGET.refused``.
        SourceUnavailableError: the weights cannot be had.
    """
    with only_builder(job.target):
        if (job.target).is_dir():
            with contextlib.suppress(CheckpointError):
                check_complete(job.target, read_manifest(job.target))
                log.info("%s was published meanwhile", job.target.name)
                return
        for leftover in job.target.parent.glob(f"{job.target.name}.work-*"):
            log.info("removing what a killed builder left: %s", leftover.name)
            shutil.rmtree(leftover)
        begin = time.monotonic()
        work = job.target.with_name(f"{job.target.name}.work-{os.getpid()}")
        work.mkdir(parents=True)
        try:
            facts = (_build_source if job.stage == "source" else _build_quantized)(job, work)
            written = list(tensors(work))
            manifest = Manifest(
                key=job.key,
                files=hash_folder(work),
                tensors_by_dtype=count_dtypes(written),
                checkpoint_bytes=sum(file.stat().st_size for file in weight_files(work)),
                quantization_config=_quantization_config(work),
                libraries=versions(job.libraries),
                seed=job.seed,
                seconds=time.monotonic() - begin,
                peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                **{"bits_per_quantized_weight": None, **facts},
            )
        except CheckpointError:
            refused = job.target.with_name(f"{job.target.name}.refused")
            shutil.rmtree(refused, ignore_errors=True)
            work.rename(refused)
            log.error("kept aside for a look: %s", refused)
            raise
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        publish(work, job.target, manifest)


def end_with_parent() -> None:
    """Exit as soon as standard input ends, which it does when the parent is gone, however it ended."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(argv: list[str]) -> int:
    """Run the job file named by the only argument and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job_file = Path(argv[0])
    end_with_parent()
    try:
        build(Job.model_validate_json(job_file.read_bytes()))
    except (CheckpointError, SourceUnavailableError) as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or job_file}"
    except MemoryError:
        message = "out of memory: use a machine with more, or a smaller model"
    except Exception as error:  # noqa: BLE001 - the border of the process: everything becomes one line and a log
        traceback.print_exc()
        message = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        )
    else:
        return 0
    job_file.with_suffix(".error").write_text(message)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
