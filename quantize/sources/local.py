"""A model in a folder on this machine: config.json, safetensors (one file, or shards with an index), tokenizer."""

from pathlib import Path
from typing import Any, ClassVar

from quantize import describe as shapes
from quantize.architecture import Architecture
from quantize.errors import SourceUnavailableError
from quantize.folder import CONFIG, check_config, check_tokenizer, check_weights, parts, read_json, take
from quantize.hashes import remembered_sha256
from quantize.key import Frozen, canonical_json, sha256_text
from quantize.source import Source


class Config(Frozen):
    """Fields of ``source.kind: local``."""

    path: Path
    quantized: bool = False
    """Whether it is a published quantized checkpoint instead of one in 16 bits."""
    trust_remote_code: bool = False
    """Whether to include the folder's own Python files and run them."""


class Local(Source):
    """A folder on this machine."""

    config: Config

    links: ClassVar[bool] = True

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that it imports: none."""
        return ()

    def _folder(self) -> Path:
        folder = self.config.path.expanduser().absolute()
        if not folder.is_dir():
            raise SourceUnavailableError(f"{folder}: no such folder; type model.source.path=FOLDER")
        return folder

    def describe(self) -> tuple[str, Architecture, int]:
        """Return (display name, shapes, context length in tokens), read from the folder's config.json."""
        folder = self._folder()
        try:
            architecture, context_length = shapes.describe(read_json(folder / CONFIG))
        except ValueError as error:
            raise SourceUnavailableError(f"{folder}: {error}") from error
        return folder.name, architecture, context_length

    def _content(self, folder: Path) -> str:
        files = {file.name: remembered_sha256(file) for file in parts(folder, code=self.config.trust_remote_code)}
        return sha256_text(canonical_json(files))

    def identity(self) -> dict[str, Any]:
        """Check the folder and return a hash over the hashes of all files that are read.

        The first call reads the complete checkpoint; later calls read only changed files.
        """
        folder = self._folder()
        check_config(
            read_json(folder / CONFIG),
            str(folder),
            quantized=self.config.quantized,
            trust_remote_code=self.config.trust_remote_code,
        )
        check_weights(folder)
        check_tokenizer(folder)
        return {"sha256": self._content(folder), **({"own_code": True} if self.config.trust_remote_code else {})}

    def new_bytes(self, identity: dict[str, Any], architecture: Architecture, place: Path) -> int:
        """Return the disk space needed to materialize: none if the files can be linked, otherwise that of copies."""
        files = parts(self._folder(), code=self.config.trust_remote_code)
        same = all(file.resolve().stat().st_dev == place.stat().st_dev for file in files)
        return 0 if same else sum(file.stat().st_size for file in files)

    def materialize(self, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
        """Link the folder's files into ``target`` and return their provenance."""
        folder = self._folder()
        if self._content(folder) != identity["sha256"]:
            raise SourceUnavailableError(f"{folder} changed after the run was planned: start the run again")
        take(parts(folder, code=self.config.trust_remote_code), target)
        return f"the folder {folder.name} on this machine, all its files together {identity['sha256'][:12]}"
