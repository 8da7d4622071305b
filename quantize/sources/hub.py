"""A model on the Hugging Face hub, pinned to a commit, safetensors only, never with remote code."""

import os
import shutil
from pathlib import Path
from typing import Any

from quantize.key import Frozen
from quantize.methods import Architecture
from quantize.sources import SourceUnavailableError

FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class Config(Frozen):
    """Fields of ``source.kind: hub``."""

    repo: str
    revision: str
    """Branch, tag or commit; resolved to a commit before it enters a key."""


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this source imports."""
    return ("huggingface_hub",)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _unavailable(config: Config, error: Exception) -> SourceUnavailableError:
    return SourceUnavailableError(
        f"cannot get {config.repo}@{config.revision} from the hub ({_reason(error)}); on a machine without the hub use "
        "model=smollm2-135m, or copy the files into the hub cache (HF_HOME) of this machine first"
    )


def identity(config: Config) -> dict[str, Any]:
    """Return repository and commit: asked of the hub, or taken from the local hub cache when it cannot be reached."""
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        commit = HfApi().model_info(config.repo, revision=config.revision, timeout=20).sha
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        try:
            commit = Path(snapshot_download(config.repo, revision=config.revision, local_files_only=True)).name
        except (LocalEntryNotFoundError, OSError, ValueError):
            raise _unavailable(config, error) from error
    return {"repo": config.repo, "commit": commit}


def materialize(config: Config, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
    """Download what is missing, link the files into ``target`` and return their provenance.

    A download that stops half-way is continued by the next run: finished parts stay in the hub cache.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(config.repo, revision=identity["commit"], allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError, ValueError) as error:
        raise _unavailable(config, error) from error
    if not list(folder.glob("*.safetensors")):
        raise SourceUnavailableError(f"{config.repo} holds no *.safetensors file; pickled checkpoints are not read")
    for file in (path for path in folder.iterdir() if path.is_file()):
        try:
            os.link(file.resolve(), target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
    return f"{config.repo} at commit {identity['commit']} on the Hugging Face hub"
