"""Base class of frozen values, and the content key that identifies results.

A key contains everything that changes the bytes of a stage's output (resolved source, method settings, calibration,
library versions, the stage's own version), and nothing else (no paths, ports or log level).
"""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields and is compared by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of ``value``: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: ``value`` contains NaN or an infinity.
        TypeError: ``value`` contains something that JSON cannot express.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Return the hex SHA-256 of the UTF-8 bytes of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


class Key(Frozen):
    """Everything that a stage's output depends on."""

    stage: str
    """Name of the stage, e.g. ``quantize``."""
    version: int
    """Raise it with any change of the stage's code that changes its output."""
    inputs: dict[str, Any]
    """Everything else that the output depends on; JSON values only."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the key's canonical JSON."""
        return sha256_text(canonical_json(self.model_dump()))
