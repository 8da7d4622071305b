"""From records of older schemas to the present one: pure functions of plain data, one for each version."""

from typing import Any


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 1 as one of schema 2, whose manifest tells more about calibration and proof."""
    made = record.get("checkpoint")
    if made is None:
        return {**record, "schema_version": 2}
    more: dict[str, Any] = {"format": None, "experts_reached": None, "layer_errors": [], "canaries": None}
    unknown: dict[str, Any] = {
        "source": "not recorded",
        "enable_thinking": None,
        "chat_template_sha256": None,
        "sample_sha256": [],
    }
    calibration = {**unknown, **made["calibration"]} if made["calibration"] else None
    proof = {"proof_seconds": 0.0, "proof_peak_rss_bytes": 0}
    return {**record, "schema_version": 2, "checkpoint": {**more, **proof, **made, "calibration": calibration}}


def _from_2(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 2 as one of schema 3, which only adds to it."""
    return {**record, "schema_version": 3}


def _from_3(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 3 as one of schema 4, which only adds to it."""
    return {**record, "schema_version": 4}


def _from_4(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of schema 4 as one of schema 5, which only adds to it."""
    return {**record, "schema_version": 5}


UPGRADES = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}
"""By schema version: what makes the next one of a record. Records on disk stay as they are."""
