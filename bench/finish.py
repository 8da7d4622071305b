"""How a command ends: its reports, its summary, its exit code."""

from collections.abc import Sequence
from pathlib import Path

from bench.record import RunRecord
from bench.report.page import write
from bench.spec import RunSpec
from bench.store import Store
from bench.summary import exit_code, show


def publish(records: Sequence[RunRecord], reports_dir: Path, name: str) -> Path:
    """Write one report over all records and return its path."""
    models = sorted({str(record.spec["model"]["title"]) for record in records})
    subject = models[0] if len(models) == 1 else f"{len(models)} models"
    return write(records, reports_dir / f"{name}.html", title=f"quantbench · {subject}")


def finish(specs: Sequence[RunSpec], session: str) -> int:
    """Write the one report of several runs, show the summary, and return the exit code the records ask for."""
    records = tuple(Store(specs[0].results_dir).records(session))
    if len(records) > 1:
        show(records, publish(records, specs[0].reports_dir, session))
    elif records:
        show(records, specs[0].reports_dir / f"{records[0].run_id}.html")
    return exit_code(records) if len(records) == len(specs) else 1
