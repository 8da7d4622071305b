"""A model on the Hugging Face hub, pinned to a commit, safetensors only, and its own code only if that is trusted.

config.json is fetched first, so that unsupported models are refused before their weights are downloaded.
"""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from quantize import describe as shapes
from quantize import hub
from quantize.architecture import Architecture
from quantize.errors import SourceUnavailableError
from quantize.estimate import checkpoint_bytes
from quantize.folder import (
    CODE,
    CONFIG,
    SIDE_FILES,
    check_config,
    check_tokenizer,
    check_weights,
    parts,
    read_json,
    take,
)
from quantize.key import Frozen
from quantize.source import Source

NOT_READ = ("*/*", "consolidated*")
"""Other copies of the same weights."""


class Config(Frozen):
    """Fields of ``source.kind: hub``."""

    repo: str
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit before it enters a key."""
    quantized: bool = False
    """Whether it is a published quantized checkpoint instead of one in 16 bits."""
    trust_remote_code: bool = False
    """Whether to include the repository's own Python files and run them; only at a commit."""

    @field_validator("trust_remote_code")
    @classmethod
    def _only_at_a_commit(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not hub.COMMIT.fullmatch(info.data.get("revision", "")):
            raise PydanticCustomError(
                "moving_code", "it runs the repository's own code, so pin the commit: model.source.revision=40_HEX"
            )
        return value


def _unavailable(error: hub.HubError) -> SourceUnavailableError:
    if error.answered:
        return SourceUnavailableError(str(error))
    return SourceUnavailableError(
        f"{error}; on a machine without the hub use model=smollm2-135m or model=local, or copy the files into the hub "
        "cache (HF_HOME) of this machine first"
    )


class Hub(Source):
    """A repository on the Hugging Face hub."""

    config: Config

    downloads: ClassVar[bool] = True

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that it imports."""
        return ("huggingface_hub",)

    def _config(self) -> tuple[str, dict[str, Any]]:
        """Return (commit, parsed config.json)."""
        try:
            file = hub.download(self.config.repo, self.config.revision, CONFIG)
        except hub.HubError as error:
            raise _unavailable(error) from error
        return file.parent.name, read_json(file)

    def _patterns(self) -> list[str]:
        return ["*.safetensors", *SIDE_FILES, *((CODE,) if self.config.trust_remote_code else ())]

    def describe(self) -> tuple[str, Architecture, int]:
        """Return (display name, shapes, context length in tokens), read from the repository's config.json."""
        _, config = self._config()
        try:
            architecture, context_length = shapes.describe(config)
        except ValueError as error:
            raise SourceUnavailableError(f"{self.config.repo}@{self.config.revision}: {error}") from error
        return self.config.repo.rpartition("/")[2], architecture, context_length

    def identity(self) -> dict[str, Any]:
        """Return repository and commit, from the hub, or from the local hub cache if the hub is unreachable."""
        commit, config = self._config()
        check_config(
            config,
            f"{self.config.repo}@{self.config.revision}",
            quantized=self.config.quantized,
            trust_remote_code=self.config.trust_remote_code,
        )
        return {
            "repo": self.config.repo,
            "commit": commit,
            **({"own_code": True} if self.config.trust_remote_code else {}),
        }

    def download_bytes(self, identity: dict[str, Any]) -> int | None:
        """Return the bytes still to download, by the hub's list of files; None if the hub is unreachable."""
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.hf_api import RepoFile
        from huggingface_hub.utils import filter_repo_objects

        commit = identity["commit"]
        try:
            with hub.asking(self.config.repo, commit):
                tree = HfApi().list_repo_tree(self.config.repo, revision=commit)
                sizes: dict[str, int] = {item.path: item.size for item in tree if isinstance(item, RepoFile)}
        except hub.HubError:
            return None
        paths = filter_repo_objects(sizes, allow_patterns=self._patterns(), ignore_patterns=list(NOT_READ))
        missing = (
            file
            for file in paths
            if not isinstance(try_to_load_from_cache(self.config.repo, file, revision=commit), str)
        )
        return sum(sizes[file] for file in missing)

    def new_bytes(self, identity: dict[str, Any], architecture: Architecture, place: Path) -> int:
        """Return the disk space needed to materialize: files still to download; the others are linked."""
        missing = self.download_bytes(identity)
        return checkpoint_bytes(architecture, None) if missing is None else missing

    def materialize(self, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
        """Download missing files, check them, link all files into ``target`` and return their provenance.

        An interrupted download is resumed, and complete files stay in the hub cache for the next run.
        """
        from huggingface_hub import snapshot_download

        commit = identity["commit"]
        try:
            with hub.asking(self.config.repo, commit):
                folder = Path(
                    snapshot_download(
                        self.config.repo,
                        revision=commit,
                        allow_patterns=self._patterns(),
                        ignore_patterns=list(NOT_READ),
                    )
                )
        except hub.HubError as error:
            raise _unavailable(error) from error
        check_weights(folder)
        check_tokenizer(folder)
        take(parts(folder, code=self.config.trust_remote_code), target)
        return f"{self.config.repo} at commit {commit} on the Hugging Face hub"
