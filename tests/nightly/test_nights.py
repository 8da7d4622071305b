"""Series judged night by night: states stored in the index do not change the judgements."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.history.index import Index
from bench.history.series import EpochMark
from bench.nightly.course import standing_of
from bench.nightly.nights import histories, standings
from testkit.records import keep
from tests.support.nights import night


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(tmp_path)) as opened:
        yield opened


def test_stored_states_give_the_same_summaries_as_the_complete_history(tmp_path: Path, index: Index) -> None:
    for day in range(14):
        keep(tmp_path, night(day, 0.06 if day in (10, 12) else 0.0))
        index.refresh()
        newest = index.runs(limit=1)
        expected = {name: standing_of(nights) for name, nights in histories(index, newest, ()).items()}
        assert standings(index, newest, ()) == expected
        assert standings(index, newest, ()) == expected
    assert {series.last.kind for series in expected.values()} == {"fine"}


def test_an_accepted_epoch_or_a_deleted_run_invalidates_stored_states(tmp_path: Path, index: Index) -> None:
    for day in range(12):
        keep(tmp_path, night(day))
    index.refresh()
    newest = index.runs(limit=1)
    standings(index, newest, ())
    marks = [EpochMark(run_id="run-009-23", reason="correct", at="2026-01-10")]
    assert {series.last.kind for series in standings(index, newest, marks).values()} == {"not_enough_data"}
    for file in (tmp_path / "runs" / "run-003-23").glob("*.json"):
        file.unlink()
    index.refresh()
    expected = {name: standing_of(nights) for name, nights in histories(index, newest, ()).items()}
    assert standings(index, newest, ()) == expected
