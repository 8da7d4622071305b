"""A model on the Hugging Face hub, pinned to a commit, safetensors only, with its own code only where that is trusted.

What is refused is refused before the weights are fetched: config.json comes first.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from quantize import describe as shapes
from quantize import hub
from quantize.architecture import Architecture
from quantize.estimate import checkpoint_bytes
from quantize.folder import BESIDE, CODE, CONFIG, check_config, check_tokenizer, check_weights, parts, read_json, take
from quantize.key import Frozen
from quantize.sources import SourceUnavailableError

NOT_READ = ("*/*", "consolidated*")
"""Other copies of the same weights."""


class Config(Frozen):
    """Fields of ``source.kind: hub``."""

    repo: str
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit before it enters a key."""
    quantized: bool = False
    """Whether a quantized checkpoint is wanted, as published by others, and not one in 16 bits."""
    trust_remote_code: bool = False
    """Whether the repository's own Python files are taken along, to be run; only at a commit."""

    @field_validator("trust_remote_code")
    @classmethod
    def _only_at_a_commit(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not hub.COMMIT.fullmatch(info.data.get("revision", "")):
            raise PydanticCustomError(
                "moving_code", "it runs the repository's own code, so name the commit: model.source.revision=40_HEX"
            )
        return value


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this source imports."""
    return ("huggingface_hub",)


def _unavailable(error: hub.HubError) -> SourceUnavailableError:
    if error.answered:
        return SourceUnavailableError(str(error))
    return SourceUnavailableError(
        f"{error}; on a machine without the hub use model=smollm2-135m or model=local, or copy the files into the hub "
        "cache (HF_HOME) of this machine first"
    )


def _config(config: Config) -> tuple[str, dict[str, Any]]:
    """Return (commit, parsed config.json)."""
    try:
        file = hub.download(config.repo, config.revision, CONFIG)
    except hub.HubError as error:
        raise _unavailable(error) from error
    return file.parent.name, read_json(file)


def _patterns(config: Config) -> list[str]:
    return ["*.safetensors", *BESIDE, *((CODE,) if config.trust_remote_code else ())]


def describe(config: Config) -> tuple[str, Architecture, int]:
    """Return (name for people, shapes, context length in tokens), read from the repository's config.json."""
    _, found = _config(config)
    try:
        architecture, context_length = shapes.describe(found)
    except ValueError as error:
        raise SourceUnavailableError(f"{config.repo}@{config.revision}: {error}") from error
    return config.repo.rpartition("/")[2], architecture, context_length


def identity(config: Config) -> dict[str, Any]:
    """Return repository and commit: asked of the hub, or taken from the local hub cache when it cannot be reached."""
    commit, found = _config(config)
    check_config(
        found,
        f"{config.repo}@{config.revision}",
        quantized=config.quantized,
        trust_remote_code=config.trust_remote_code,
    )
    return {"repo": config.repo, "commit": commit, **({"own_code": True} if config.trust_remote_code else {})}


def download_bytes(config: Config, identity: dict[str, Any]) -> int | None:
    """Return how much is still to be downloaded, by the hub's own list of files; None if the hub gives none."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils import filter_repo_objects

    commit = identity["commit"]
    try:
        with hub.asking(config.repo, commit):
            tree = HfApi().list_repo_tree(config.repo, revision=commit)
            sizes: dict[str, int] = {item.path: item.size for item in tree if isinstance(item, RepoFile)}
    except hub.HubError:
        return None
    wanted = filter_repo_objects(sizes, allow_patterns=_patterns(config), ignore_patterns=list(NOT_READ))
    missing = (
        file for file in wanted if not isinstance(try_to_load_from_cache(config.repo, file, revision=commit), str)
    )
    return sum(sizes[file] for file in missing)


def new_bytes(config: Config, identity: dict[str, Any], architecture: Architecture, place: Path) -> int:
    """Return the disk that materializing takes: what is still to be downloaded; the rest is linked."""
    missing = download_bytes(config, identity)
    return checkpoint_bytes(architecture, None) if missing is None else missing


def materialize(config: Config, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
    """Download what is missing, check it, link the files into ``target`` and return their provenance.

    A download that stops half-way is gone on with, and files that are whole stay in the hub cache for the next run.
    """
    from huggingface_hub import snapshot_download

    commit = identity["commit"]
    try:
        with hub.asking(config.repo, commit):
            folder = Path(
                snapshot_download(
                    config.repo, revision=commit, allow_patterns=_patterns(config), ignore_patterns=list(NOT_READ)
                )
            )
    except hub.HubError as error:
        raise _unavailable(error) from error
    check_weights(folder)
    check_tokenizer(folder)
    take(parts(folder, code=config.trust_remote_code), target)
    return f"{config.repo} at commit {commit} on the Hugging Face hub"
