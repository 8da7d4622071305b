"""The interface of a model source: where 16-bit weights come from, and how they are identified and fetched.

There is one module of :mod:`quantize.sources` per kind, with one subclass of `Source`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SerializeAsAny

from quantize.architecture import Architecture
from quantize.errors import SourceUnavailableError
from quantize.estimate import checkpoint_bytes
from quantize.key import Frozen
from quantize.plugins import class_named


class Source(Frozen, ABC):
    """One source with its validated config. All methods raise `SourceUnavailableError` if weights are unavailable."""

    kind: str
    """Name of its module."""
    config: SerializeAsAny[Frozen]

    downloads: ClassVar[bool] = False
    """Whether weights are downloaded."""
    links: ClassVar[bool] = False
    """Whether files are linked into place instead of copied."""

    @property
    @abstractmethod
    def packages(self) -> tuple[str, ...]:
        """Packages that it imports."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what determines the bytes, for the checkpoint's key. Fast, without torch; may access a hub."""

    @abstractmethod
    def materialize(self, identity: dict[str, Any], architecture: Architecture, target: Path) -> str:
        """Write a 16-bit safetensors checkpoint with its tokenizer; return its provenance in one sentence."""

    def describe(self) -> tuple[str, Architecture, int]:
        """Return (display name, shapes, context length in tokens), read from the source itself.

        Raises:
            SourceUnavailableError: this kind of source does not describe itself.
        """
        raise SourceUnavailableError(f"source.kind={self.kind} does not describe itself: set model.architecture")

    def new_bytes(self, identity: dict[str, Any], architecture: Architecture, place: Path) -> int:
        """Return the disk space needed to materialize in ``place``."""
        return checkpoint_bytes(architecture, None)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a model config, including ``kind``."""
        return {"kind": self.kind, **self.config.model_dump(mode="json")}


def source(fields: Mapping[str, Any]) -> Source:
    """Return the source of a config section, whose fields include ``kind``.

    Raises:
        PluginError: there is no such kind.
        ValidationError: a field is invalid; locations start at the field.
    """
    rest = dict(fields)
    kind = str(rest.pop("kind", None))
    plugin = class_named("quantize.sources", kind, Source)  # type: ignore[type-abstract]
    config = plugin.model_fields["config"].annotation
    assert config is not None
    return plugin(kind=kind, config=config.model_validate(rest))
