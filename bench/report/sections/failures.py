"""What did not work, with the error or the reason."""

from collections.abc import Iterator, Sequence

from bench import format as fmt
from bench.records.record import RunRecord, Status
from bench.report.document import Cell, Group, Head, Section, Table, Text
from bench.report.view import Run, runs

ORDER = 60

BAD: tuple[Status, ...] = ("invalid", "failed")


def _rows(run: Run) -> Iterator[list[Cell]]:
    record = run.record
    if record.finished_at is None:
        yield [
            run.heading,
            Cell("run"),
            Cell("cut short"),
            Cell("The run did not end; the same command goes on with it."),
        ]
    for failure in record.failures:
        yield [run.heading, Cell(failure.stage), Cell("", status="failed"), Cell(failure.message)]
    for cell in record.cells:
        if cell.status in BAD:
            lengths = f"{fmt.count(cell.input_len)} in, {fmt.count(cell.output_len)} out"
            what = f"speed, {lengths}, concurrency {cell.concurrency}"
            yield [run.heading, Cell(what), Cell("", status=cell.status), Cell("; ".join(cell.reasons))]
    for score in record.scores:
        if score.status in BAD:
            yield [run.heading, Cell(score.task), Cell("", status=score.status), Cell("; ".join(score.reasons))]


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the list of failures; None if there are none."""
    rows = [row for run in runs(records) for row in _rows(run)]
    if not rows:
        return None
    heads = [Head("Variant"), Head("What"), Head("Status"), Head("Reason")]
    lead = "What was measured all the same is kept and stands in the sections above."
    return Section("failures", "Failures", [Text(lead), Table("What did not work", heads, [Group(rows)])])
