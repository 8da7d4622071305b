"""Series judged night by night: what is kept in the index changes no judgement."""

from pathlib import Path

from bench.history.index import Index
from bench.history.series import EpochMark
from bench.nightly.course import standing_of
from bench.nightly.nights import histories, standings
from testkit.records import keep
from tests.support.nights import night


def test_what_is_kept_says_what_the_whole_history_says(tmp_path: Path) -> None:
    index = Index(tmp_path)
    for day in range(14):
        keep(tmp_path, night(day, 0.06 if day in (10, 12) else 0.0))
        index.refresh()
        newest = index.runs(limit=1)
        whole = {name: standing_of(own) for name, own in histories(index, newest, ()).items()}
        assert standings(index, newest, ()) == whole
        assert standings(index, newest, ()) == whole
    assert {one.last.kind for one in whole.values()} == {"fine"}


def test_a_word_of_a_person_or_a_run_that_is_gone_makes_it_anew(tmp_path: Path) -> None:
    index = Index(tmp_path)
    for day in range(12):
        keep(tmp_path, night(day))
    index.refresh()
    newest = index.runs(limit=1)
    standings(index, newest, ())
    marks = [EpochMark(run_id="run-009-23", reason="right", at="2026-01-10")]
    assert {one.last.kind for one in standings(index, newest, marks).values()} == {"not_enough_data"}
    for file in (tmp_path / "runs" / "run-003-23").glob("*.json"):
        file.unlink()
    index.refresh()
    whole = {name: standing_of(own) for name, own in histories(index, newest, ()).items()}
    assert standings(index, newest, ()) == whole
