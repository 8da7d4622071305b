"""A model in a folder on this machine: config.json, safetensors (in one file or in shards with an index), tokenizer."""

from pathlib import Path
from typing import Any

from quantize import describe as shapes
from quantize.architecture import Architecture
from quantize.folder import CONFIG, check_config, check_tokenizer, check_weights, parts, read_json, take
from quantize.hashes import remembered_sha256
from quantize.key import Frozen, canonical_json, sha256_text
from quantize.sources import SourceUnavailableError


class Config(Frozen):
    """Fields of ``source.kind: local``."""

    path: Path
    quantized: bool = False
    """Whether a quantized checkpoint is wanted, as published by others, and not one in 16 bits."""
    trust_remote_code: bool = False
    """Whether the folder's own Python files are taken along, to be run."""


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this source imports: none."""
    return ()


def _folder(config: Config) -> Path:
    folder = config.path.expanduser().absolute()
    if not folder.is_dir():
        raise SourceUnavailableError(f"{folder}: no such folder; type model.source.path=FOLDER")
    return folder


def describe(config: Config) -> tuple[str, Architecture, int]:
    """Return (name for people, shapes, context length in tokens), read from the folder's config.json."""
    folder = _folder(config)
    try:
        architecture, context_length = shapes.describe(read_json(folder / CONFIG))
    except ValueError as error:
        raise SourceUnavailableError(f"{folder}: {error}") from error
    return folder.name, architecture, context_length


def _content(config: Config, folder: Path) -> str:
    files = {file.name: remembered_sha256(file) for file in parts(folder, code=config.trust_remote_code)}
    return sha256_text(canonical_json(files))


def identity(config: Config) -> dict[str, Any]:
    """Check the folder and return one hash over the hashes of all files that are read.

    The first time that reads the whole checkpoint; after that, only what has changed.
    """
    folder = _folder(config)
    check_config(
        read_json(folder / CONFIG),
        str(folder),
        quantized=config.quantized,
        trust_remote_code=config.trust_remote_code,
    )
    check_weights(folder)
    check_tokenizer(folder)
    return {"sha256": _content(config, folder), **({"own_code": True} if config.trust_remote_code else {})}


def new_bytes(config: Config, identity: dict[str, Any], architecture: Architecture, place: Path) -> int:
    """Return the disk that materializing takes: nothing where the files can be linked, else their copies."""
    files = parts(_folder(config), code=config.trust_remote_code)
    same = all(file.resolve().stat().st_dev == place.stat().st_dev for file in files)
    return 0 if same else sum(file.stat().st_size for file in files)


def materialize(config: Config, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
    """Link the folder's files into ``target`` and return their provenance."""
    folder = _folder(config)
    if _content(config, folder) != identity["sha256"]:
        raise SourceUnavailableError(f"{folder} changed after the run was planned: start the run again")
    take(parts(folder, code=config.trust_remote_code), target)
    return f"the folder {folder.name} on this machine, all its files together {identity['sha256'][:12]}"
