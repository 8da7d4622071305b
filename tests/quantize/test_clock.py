"""Time stamps: the formats in files on disk, which readers and the order of runs depend on."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from quantize.clock import utc_date, utc_mark, utc_name, utc_now
from tests.support.paths import ROOT

DAY, TIME = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("stamp", "form"),
    [
        (utc_now, rf"{DAY}T{TIME}\+00:00"),
        (partial(utc_now, "milliseconds"), rf"{DAY}T{TIME}\.\d{{3}}\+00:00"),
        (partial(utc_now, "microseconds"), rf"{DAY}T{TIME}\.\d{{6}}\+00:00"),
        (utc_mark, rf"{DAY}T{TIME}Z"),
        (utc_name, r"\d{8}T\d{6}"),
        (utc_date, DAY),
    ],
)
def test_stamps_have_the_forms_on_disk_and_the_time_in_utc(stamp: Callable[[], str], form: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    text = stamp()
    assert re.fullmatch(form, text)
    time = datetime.fromisoformat(text)
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    begin = before.replace(hour=0, minute=0, second=0) if stamp is utc_date else before
    assert begin <= time <= datetime.now(UTC)


def test_nothing_else_writes_the_time() -> None:
    """``results prune`` depends on it."""
    files = [file for folder in ("bench", "quantize") for file in (ROOT / folder).rglob("*.py")]
    writers = {str(file.relative_to(ROOT)) for file in files if "datetime.now(" in file.read_text()}
    assert writers == {"quantize/clock.py", "bench/commands/results.py"}
