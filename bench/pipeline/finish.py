"""Finish a command: write its report, print its summary, return its exit code."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.config.spec import RunSpec
from bench.errors import StoreError
from bench.history.index import Index, marks_of
from bench.nightly.course import JudgedNight
from bench.nightly.nights import histories
from bench.pipeline.session import CommandSession
from bench.pipeline.summary import show
from bench.records.record import RunRecord
from bench.records.store import Store, is_complete
from bench.report.page import title_of, write


def nights_of(results_dir: Path, session: str) -> Mapping[str, tuple[JudgedNight, ...]]:
    """Return the histories of the series with finished runs of a session; empty if the index is unavailable."""
    try:
        index = Index(results_dir)
        try:
            index.refresh()
            rows = [row for row in index.runs() if row.session == session]
            return histories(index, rows, marks_of(results_dir))
        finally:
            index.close()
    except StoreError as error:
        sys.stderr.write(f"warning: the report has no history: {error}\n")
        return {}


def publish(records: Sequence[RunRecord], spec: RunSpec, session: str, name: str) -> Path:
    """Write one report over all records and return its path."""
    path = spec.reports_dir / f"{name}.html"
    nights = nights_of(spec.results_dir, session)
    return write(records, path, title=title_of(records), lang=spec.report.lang, histories=nights)


def finish(specs: Sequence[RunSpec], session: CommandSession) -> int:
    """Write the report, print the summary, and return 1 if anything failed, is invalid or is missing, else 0."""
    store = Store(specs[0].results_dir)
    records = list(store.records(session.name))
    if session.resumed or session.attempts > 1:
        # A run repeated after a failure, a dead worker or a change of machine counts once: the newest finished one.
        finished_last = sorted(records, key=lambda record: (record.finished_at is not None, record.started_at))
        by_key = {record.key: record for record in finished_last}
        records = sorted(by_key.values(), key=lambda record: record.started_at)
    if records:
        name = records[0].run_id if len(specs) == 1 else session.name
        show(records, publish(records, specs[0], session.name, name))
    missing = not records or (len(records) < len(specs) and not session.resumed)
    return 1 if missing or not all(map(is_complete, records)) else 0
