"""Number of files and size of the largest file of each checkpoint: the example of docs/adding-a-report-section.md."""

from collections.abc import Sequence

from bench import format as fmt
from bench.records.record import RunRecord
from bench.report.document import Cell, Group, Head, Section, Table, number
from bench.report.view import Run, runs

ORDER = 42

HEADS = (
    Head("Variant"),
    Head("Files", "of the checkpoint, including the tokenizer", numeric=True),
    Head("Largest", "bytes of the largest file", numeric=True),
)


def _row(run: Run) -> list[Cell]:
    files = run.record.checkpoint.files if run.record.checkpoint else {}
    sizes = [file.bytes for file in files.values()]
    return [
        run.heading,
        Cell(fmt.count(len(sizes)) if sizes else fmt.MISSING, numeric=True),
        number(max(sizes, default=None), fmt.size, "bytes"),
    ]


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section; None if no run has a checkpoint."""
    if not any(record.checkpoint for record in records):
        return None
    rows = [_row(run) for run in runs(records)]
    return Section("files", "Files", [Table("Every checkpoint", HEADS, [Group(rows)])])
