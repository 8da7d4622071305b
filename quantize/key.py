"""Frozen value base class and the content key by which results are found again.

A key holds everything that changes the bytes of a stage's output (resolved source, method settings, calibration,
library versions, the stage's own version) and nothing that does not (paths, ports, log level).
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable value that refuses unknown fields; equality is by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(value: Any) -> str:
    """Return the one JSON text for ``value``: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: ``value`` holds NaN or an infinity.
        TypeError: ``value`` holds something JSON cannot express.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Return the hex SHA-256 of the UTF-8 bytes of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


class Key(Frozen):
    """What a stage's output depends on."""

    stage: str
    """Name of the stage, e.g. ``quantize``."""
    version: int
    """Raised whenever the stage's code changes what it would produce."""
    inputs: dict[str, Any]
    """Everything else the output depends on; JSON values only."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the key's canonical JSON."""
        return sha256_text(canonical_json(self.model_dump()))
