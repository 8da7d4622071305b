"""Time stamps as they are written on disk, all UTC; for people and for order, never for durations."""

from datetime import UTC, datetime
from typing import Literal


def utc_now(precision: Literal["seconds", "milliseconds", "microseconds"] = "seconds") -> str:
    """Return the time as records have it: ``2026-11-24T02:06:31+00:00``."""
    return datetime.now(UTC).isoformat(timespec=precision)


def utc_mark() -> str:
    """Return the time as the gate's files have it: ``2026-11-24T02:06:31Z``."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def utc_name() -> str:
    """Return the time as names of runs and sessions begin with it, in their order: ``20261124T020631``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}"


def utc_date() -> str:
    """Return the day: ``2026-11-24``."""
    return f"{datetime.now(UTC):%Y-%m-%d}"
