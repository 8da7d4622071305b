"""The contents of a checkpoint folder, verified by reading it back, and its publication.

The manifest is written last, inside the folder, and the folder is renamed into place atomically: a checkpoint that has
a manifest is complete. Dtypes and shapes are read from the safetensors headers, never trusted from a config file.
"""

import hashlib
import json
import os
import re
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantize.key import Frozen, Key

OWN = "quantbench_"
"""Beginning of the names of files in a checkpoint folder that describe it and do not belong to it."""
MANIFEST_NAME = f"{OWN}manifest.json"
PREDICTIONS_NAME = f"{OWN}predictions.npz"
"""Record of the predictions that fidelity was computed from; see :mod:`quantize.predictions`."""

MODELOPT = "hf_quant_config.json"
"""File in which NVIDIA ModelOpt declares a quantization."""


class CheckpointError(Exception):
    """A checkpoint is incomplete, damaged, or not what its scheme says."""


class FileFact(Frozen):
    """Size and content hash of one file."""

    sha256: str
    bytes: int


class TensorFact(Frozen):
    """One tensor as described by its safetensors header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class CalibrationFact(Frozen):
    """The calibration samples that were actually used."""

    id: str
    source: str
    """Source of the text, in one sentence."""
    n_samples: int
    max_seq_len: int
    n_tokens: int
    enable_thinking: bool | None
    """Argument of the chat template; None where none was used."""
    chat_template_sha256: str | None
    sha256: str
    """Hash over the token ids of all samples, in order."""
    sample_sha256: tuple[str, ...]
    """Hash over the token ids of each sample."""
    tokens_per_column: float | None = None
    """Tokens for each input column of the widest quantized layer, without unit; None where it was not recorded."""
    is_few: bool = False
    """Whether these are fewer than the method needs, which the run has accepted."""


class Fidelity(Frozen):
    """Distance of the reloaded checkpoint's next-token distributions from its source's, on held-out text."""

    text_id: str
    text_sha256: str
    n_tokens: int
    """Number of compared positions."""
    documents: int | None = None
    """Number of windows that they are from; None where it was not recorded."""
    kl_nats: float
    """Mean KL(source || checkpoint), nats per token."""
    rounding_kl_nats: float | None = None
    """The same of the source's weights rounded to nearest in the same format; None where it was not recorded."""
    top1_agreement: float
    """Share of positions with the same most likely next token, 0 to 1."""
    perplexity: float
    """Perplexity of this checkpoint on the held-out text, without unit."""
    source_perplexity: float
    """Perplexity of its source, without unit."""


class LayerError(Frozen):
    """Error of the output of one linear layer (or one block of experts) relative to the source's.

    Each half of a decoder layer, attention and MLP, gets the source's input, so the last layer of a half, ``o_proj`` or
    ``down_proj``, includes the errors of the layers before it in that half.
    """

    layer: int
    """Number of the decoder layer, from 0."""
    name: str
    """Name within the decoder layer, e.g. ``mlp.down_proj``."""
    relative_error: float
    """Ratio |output - source's output| / |source's output|, median over held-out positions without attention sinks.

    In manifests without ``proof_key`` it is one ratio of Frobenius norms, which attention sinks dominate."""
    sink_error: float | None = None
    """The same ratio at attention sinks; None if the layer's output has none, or where it was not recorded."""


class LayerDamage(Frozen):
    """What one decoder layer contributes to the divergence from the source."""

    layer: int
    """Number of the decoder layer, from 0."""
    kl_nats: float
    """KL divergence that disappears if the layer is replaced by the source's, nats per token."""
    standard_error_nats: float | None
    """Its standard error over windows of text; None for a single window."""


class Speech(Frozen):
    """Statistics of greedy continuations of a few prompts."""

    repetition: float
    """Share of token pairs that repeat an earlier pair of the same continuation, 0 to 1."""
    entropy_nats: float
    """Mean entropy of the next-token distribution, nats."""


class Canaries(Frozen):
    """A few prompts continued by a checkpoint and by its source."""

    prompts: int
    new_tokens: int
    source: Speech
    checkpoint: Speech
    same_tokens: float
    """Share of new tokens that equal the source's at the same position, 0 to 1."""


class Manifest(Frozen):
    """A published checkpoint: its files, its origin, and what was proven about it."""

    key: Key
    """Key of the weights."""
    proof_key: Key | None = None
    """Key of what was proven about them; None where it was not recorded."""
    files: dict[str, FileFact]
    tensors_by_dtype: dict[str, int]
    """Number of tensors per safetensors dtype, counted from the headers."""
    checkpoint_bytes: int
    """Bytes of all safetensors files."""
    bits_per_quantized_weight: float | None
    """Stored bits per weight of the quantized layers, including scales and zero points; None without quantization."""
    quantization_config: dict[str, Any] | None
    format: str | None
    """How the quantized layers are stored, in words; None if nothing is quantized."""
    provenance: str
    """Origin of the weights, in one sentence."""
    calibration: CalibrationFact | None
    experts_reached: float | None
    """Share of experts that the router chose for calibration tokens; None without experts or calibration."""
    fidelity: Fidelity | None
    layer_errors: tuple[LayerError, ...]
    layer_damage: tuple[LayerDamage, ...] = ()
    canaries: Canaries | None
    """None where nothing was quantized, or where the model does not fit in memory (a note says so)."""
    notes: tuple[str, ...]
    """What is special about how the weights were made."""
    proof_notes: tuple[str, ...] = ()
    """The same about the proof."""
    warnings: tuple[str, ...] = ()
    """What the library warned of while it quantized, one sentence for each kind of warning."""
    libraries: dict[str, str]
    seed: int
    build_s: float
    """Time to produce the weights, without the proof."""
    peak_rss_bytes: int
    """Highest resident memory during that time."""
    peak_device_bytes: int | None = None
    """Highest memory of the accelerator during that time; None without one."""
    proof_s: float
    proof_peak_rss_bytes: int
    created_at: str


class Checkpoint(Frozen):
    """A published checkpoint on this machine."""

    path: Path
    manifest: Manifest
    reused: bool
    reason: str
    """Why it was reused or built."""


def read_header(file: Path) -> dict[str, Any]:
    """Return the JSON header of a safetensors file.

    Raises:
        CheckpointError: the file is truncated or is not safetensors.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise CheckpointError(f"{file} is not a safetensors file: only {size} bytes long")
        (length,) = struct.unpack("<Q", prefix)
        if length > size - 8:
            raise CheckpointError(f"{file} is truncated or not safetensors: header of {length} bytes in {size}")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise CheckpointError(f"{file} is not a safetensors file: its header is not JSON") from error
    end = max((fact["data_offsets"][1] for name, fact in header.items() if name != "__metadata__"), default=0)
    if size != 8 + length + end:
        raise CheckpointError(f"{file} is truncated: {size} bytes where its header requires {8 + length + end}")
    return header


def read_quantization(folder: Path) -> dict[str, Any] | None:
    """Return the quantization that a checkpoint folder declares; None if it declares none.

    ModelOpt's older releases declare it in a file of its own.

    Raises:
        CheckpointError: a file is missing or is not JSON.
    """
    try:
        config: dict[str, Any] | None = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
        if config is None and (own := folder / MODELOPT).exists():
            config = {"quant_method": "modelopt", **json.loads(own.read_bytes())}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from error
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files in name order.

    Raises:
        CheckpointError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} contains no *.safetensors file; pickled checkpoints are not supported")
    return files


def tensors(folder: Path) -> Iterator[TensorFact]:
    """Yield every tensor of a checkpoint folder from its safetensors headers."""
    for file in weight_files(folder):
        for name, fact in read_header(file).items():
            if name != "__metadata__":
                begin, end = fact["data_offsets"]
                yield TensorFact(name=name, dtype=fact["dtype"], shape=tuple(fact["shape"]), bytes=end - begin)


def bits_of(dtype: str) -> int:
    """Return the bits of a number of a safetensors dtype: the first number in its name, such as 8 in ``F8_E4M3``."""
    return 8 if dtype == "BOOL" else int(re.findall(r"\d+", dtype)[0])


def count_dtypes(facts: list[TensorFact]) -> dict[str, int]:
    """Return the number of tensors per dtype, by name of dtype."""
    return dict(sorted(Counter(fact.dtype for fact in facts).items()))


def hash_file(file: Path) -> FileFact:
    """Return size and SHA-256 of ``file``."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileFact(sha256=digest, bytes=file.stat().st_size)


def hash_folder(folder: Path) -> dict[str, FileFact]:
    """Return the facts of every file below ``folder`` except those that describe it, by relative name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(OWN))
    return {str(file.relative_to(folder)): hash_file(file) for file in files}


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a published checkpoint.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    try:
        return Manifest.model_validate(with_units(json.loads((folder / MANIFEST_NAME).read_bytes())))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} has no readable manifest ({error})") from error


def rename_fields(fields: Any, **names: str) -> Any:
    """Return a mapping with some fields renamed, given as ``old="new"``; return anything else unchanged."""
    return {names.get(name, name): value for name, value in fields.items()} if isinstance(fields, dict) else fields


def with_units(facts: Any) -> Any:
    """Return facts of a manifest under their current names, which contain units; those of older manifests do not.

    Args:
        facts: all or some fields of a manifest, as in its file.
    """
    facts = rename_fields(facts, seconds="build_s", proof_seconds="proof_s")
    if not isinstance(facts, dict):
        return facts
    if "fidelity" in facts:
        facts["fidelity"] = rename_fields(facts["fidelity"], kl="kl_nats")
    canaries = rename_fields(facts.get("canaries"), found="checkpoint")
    if isinstance(canaries, dict):
        facts["canaries"] = {name: rename_fields(value, entropy="entropy_nats") for name, value in canaries.items()}
    return facts


def check_complete(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the manifest exists with its size (hashes are checked on demand, not on every run).

    Raises:
        CheckpointError: a file is missing or has a different size.
    """
    for name, fact in manifest.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != fact.bytes:
            raise CheckpointError(f"{file} is missing or not {fact.bytes} bytes long")


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the manifest has its content.

    Raises:
        CheckpointError: a file is missing or has other content.
    """
    check_complete(folder, manifest)
    for name, fact in manifest.files.items():
        if hash_file(folder / name) != fact:
            raise CheckpointError(f"{folder / name} has changed since it was published")


def own_code(folder: Path) -> bool:
    """Return whether to run a checkpoint's own Python files, which a source includes only if they are trusted."""
    return any(folder.glob("*.py"))


def link_tree(source: Path, target: Path) -> None:
    """Link every file of a checkpoint into ``target``, or copy where links are impossible."""
    for file in sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith(OWN)):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)


def sync_tree(folder: Path) -> None:
    """Flush every file below ``folder``, and its folders, to the disk before they are declared complete."""
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a checkpoint folder, durably and atomically."""
    part = folder / f".{MANIFEST_NAME}"
    with part.open("w") as stream:
        stream.write(manifest.model_dump_json(indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / MANIFEST_NAME)


def publish(work: Path, target: Path, manifest: Manifest) -> None:
    """Write the manifest into ``work`` and rename the folder to ``target``, durably and atomically."""
    write_manifest(work, manifest)
    sync_tree(work)
    if target.exists():
        shutil.rmtree(target)
    work.replace(target)
