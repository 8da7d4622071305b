"""The complete proof of a checkpoint: its form, its weights, its predictions, its layers and its continuations."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantize import proof
from quantize.architecture import Architecture
from quantize.ceiling import too_far
from quantize.checkpoint import PREDICTIONS_NAME, CheckpointError
from quantize.estimate import proof_memory
from quantize.imports import import_transformers
from quantize.key import Frozen, Key
from quantize.method import Expected
from quantize.reader import Reader

Say = Callable[[str], None]
HOW_IT_IS_STORED = {"container", "packed", "act_order"}
"""Fields of a format that do not change the values that weights can have."""


class RefusedError(CheckpointError):
    """The weights are complete, but not what the scheme says or too far from their source."""


class ProofJob(Frozen):
    """What a checkpoint is proven against."""

    source: Path
    """Folder of the 16-bit checkpoint."""
    source_digest: str
    """Digest of its key."""
    expected: Expected
    architecture: Architecture
    text_id: str
    """Name of the held-out text."""
    windows: tuple[tuple[int, ...], ...]
    """Token ids of its windows."""
    libraries: dict[str, str]
    """Versions of the packages that compute the proof."""
    cache: Path
    """Folder for what several proofs need."""


def prove_form(source: Path, folder: Path, expected: Expected) -> dict[str, Any]:
    """Check dtypes, shapes and config of a checkpoint, and return {field of the manifest: value}.

    Raises:
        RefusedError: they are not what the scheme says.
    """
    try:
        bits = proof.prove(Reader(source), Reader(folder), expected)
    except CheckpointError as error:
        raise RefusedError(str(error)) from error
    return {"bits_per_quantized_weight": bits, "format": str(expected) if expected.format else None}


def prove_all(job: ProofJob, folder: Path, say: Say) -> dict[str, Any]:
    """Check weights, predictions, layers and continuations, and return {field of the manifest: value}.

    The record of predictions is written into the folder.

    Args:
        job: what to compare with.
        folder: the written checkpoint, whose form has been proven.
        say: called with what begins.

    Raises:
        RefusedError: they are not those of the source, or too far from them.
    """
    import_transformers()
    from quantize.canaries import degenerate
    from quantize.device import default_gpu, proof_device
    from quantize.fidelity import measure
    from quantize.layer_errors import wrong_layer
    from quantize.predictions import fidelity_of
    from quantize.weights import prove_weights

    gpu = default_gpu()
    longest = max(map(len, job.windows))
    device = proof_device(proof_memory(job.architecture, (len(job.windows), longest)), gpu)
    try:
        say("comparing weights with the source's")
        notes = list(prove_weights(Reader(job.source), Reader(folder), job.expected))
        rounding = _rounding(job, device, say)
        say("comparing predictions with the source's")
        report = measure(job.source, folder, job.windows, job.text_id, device=device)
    except CheckpointError as error:
        raise RefusedError(str(error)) from error
    fidelity = fidelity_of(report.predictions, rounding_kl_nats=rounding)
    reason = too_far(fidelity, job.expected.max_kl_nats) or wrong_layer(report.layer_errors)
    if not reason and report.canaries:
        broken = degenerate(report.canaries.source, report.canaries.checkpoint)
        reason = broken and f"its continuations are degenerate: {broken}"
    if reason:
        raise RefusedError(reason)
    if fidelity.kl_nats > rounding and not job.expected.nearest:
        notes.append(
            f"KL to the source is {fidelity.kl_nats:.3g}, above that of rounding to nearest without calibration, "
            f"{rounding:.3g} nats per token"
        )
    if gpu is not None and device != gpu:
        notes.append("the proof ran on the CPU: a decoder layer of each checkpoint does not fit in the GPU's memory")
    if report.canaries is None:
        memory = "memory" if device.type == "cpu" else "the GPU's memory"
        notes.append(f"canary prompts were not run: the whole model does not fit into {memory}")
    part = folder / f".{PREDICTIONS_NAME}"
    report.predictions.save(part)
    part.replace(folder / PREDICTIONS_NAME)
    return {
        "fidelity": fidelity,
        "layer_errors": report.layer_errors,
        "layer_damage": report.layer_damage,
        "canaries": report.canaries,
        "proof_notes": tuple(notes),
    }


def _rounding(job: ProofJob, device: Any, say: Say) -> float:
    """Return the KL divergence of rounding to nearest in the checkpoint's format, computed once for each source."""
    from quantize.fidelity import rounding_kl

    layers = sorted(proof.linear_layers(Reader(job.source).facts.values(), job.expected.ignore))
    forms = {layer: job.expected.form_of(layer) for layer in layers}
    of_kinds = {form: form.model_dump(mode="json", exclude=HOW_IT_IS_STORED) for form in forms.values()}
    inputs = {
        "source": job.source_digest,
        "formats": {layer: of_kinds[form] for layer, form in forms.items()},
        "windows": job.windows,
        "libraries": job.libraries,
    }
    file = job.cache / f"{Key(stage='rounding', version=1, inputs=inputs).digest}.json"
    if file.exists():
        return float(json.loads(file.read_text())["kl_nats"])
    say("computing what rounding to nearest costs")
    kl = rounding_kl(job.source, forms, job.windows, device=device)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"kl_nats": kl}))
    part.replace(file)
    return kl
