"""How a command ends: its reports, its summary, its exit code."""

from collections.abc import Sequence
from pathlib import Path

from bench.record import RunRecord
from bench.report.page import write
from bench.session import Session
from bench.spec import RunSpec
from bench.store import Store, is_complete
from bench.summary import show


def publish(records: Sequence[RunRecord], reports_dir: Path, name: str) -> Path:
    """Write one report over all records and return its path."""
    models = sorted({str(record.spec["model"]["title"]) for record in records})
    subject = models[0] if len(models) == 1 else f"{len(models)} models"
    return write(records, reports_dir / f"{name}.html", title=f"quantbench · {subject}")


def finish(specs: Sequence[RunSpec], session: Session) -> int:
    """Write the report, show the summary, and return 1 if anything failed, was invalid or is missing, else 0."""
    store = Store(specs[0].results_dir)
    records = list(store.records(session.name))
    if session.resumed or session.attempts > 1:
        # What was repeated, because it had failed, its worker had died or the machine had changed, counts once.
        whole = sorted(records, key=lambda record: (record.finished_at is not None, record.started_at))
        once = {record.key: record for record in whole}.values()
        records = sorted(once, key=lambda record: record.started_at)
    if records:
        name = records[0].run_id if len(specs) == 1 else session.name
        show(records, publish(records, specs[0].reports_dir, name))
    missing = not records or (len(records) < len(specs) and not session.resumed)
    return 1 if missing or not all(map(is_complete, records)) else 0
