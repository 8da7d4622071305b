"""A checkpoint in a tar archive on this machine: config.json, safetensors and tokenizer, without folders."""

import json
import tarfile
from pathlib import Path
from typing import Any

from quantize import describe as shapes
from quantize.architecture import Architecture
from quantize.errors import SourceUnavailableError
from quantize.hashes import remembered_sha256
from quantize.key import Frozen
from quantize.source import Source


class Config(Frozen):
    """Fields of ``source.kind: archive``."""

    path: Path


class Archive(Source):
    """A tar archive on this machine."""

    config: Config

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that it imports: none."""
        return ()

    def identity(self) -> dict[str, Any]:
        """Return the archive's checksum, so that another archive gives another checkpoint."""
        if not self.config.path.is_file():
            raise SourceUnavailableError(f"{self.config.path}: no such file; type model.source.path=FILE.tar")
        return {"sha256": remembered_sha256(self.config.path)}

    def describe(self) -> tuple[str, Architecture, int]:
        """Return (name, shapes, context length in tokens), read from the archive's config.json."""
        self.identity()
        try:
            with tarfile.open(self.config.path) as archive:
                config = archive.extractfile("config.json")
                return self.config.path.stem, *shapes.describe(json.load(config) if config else {})
        except (tarfile.TarError, KeyError, ValueError) as error:
            raise SourceUnavailableError(f"{self.config.path}: no readable config.json ({error})") from error

    def materialize(self, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
        """Unpack the archive into ``target``; return its provenance."""
        with tarfile.open(self.config.path) as archive:
            archive.extractall(target, filter="data")
        return f"the archive {self.config.path.name}, sha256 {identity['sha256'][:12]}"
