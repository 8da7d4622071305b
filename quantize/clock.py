"""Time stamps on disk, all in UTC, for display and ordering, never for durations."""

from datetime import UTC, datetime
from typing import Literal


def utc_now(precision: Literal["seconds", "milliseconds", "microseconds"] = "seconds") -> str:
    """Return the time in the format of records: ``2026-11-24T02:06:31+00:00``."""
    return datetime.now(UTC).isoformat(timespec=precision)


def utc_mark() -> str:
    """Return the time in the format of the gate's files: ``2026-11-24T02:06:31Z``."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def utc_name() -> str:
    """Return the time in the sortable format of run and session names: ``20261124T020631``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}"


def utc_date() -> str:
    """Return the date: ``2026-11-24``."""
    return f"{datetime.now(UTC):%Y-%m-%d}"
