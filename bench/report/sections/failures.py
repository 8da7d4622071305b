"""What failed, with the error or the reason."""

from collections.abc import Iterator, Sequence

from bench import format as fmt
from bench.messages.message import clauses, msg
from bench.records.record import RunRecord, Status
from bench.report.document import Cell, Group, Head, Section, Table, Text
from bench.report.recorded import recorded
from bench.report.view import Run, runs

ORDER = 60

BAD: tuple[Status, ...] = ("invalid", "failed")


def _rows(run: Run) -> Iterator[list[Cell]]:
    record = run.record
    if record.finished_at is None:
        yield [
            run.heading,
            Cell(msg("failures.run")),
            Cell(msg("word.interrupted")),
            Cell(msg("failures.interrupted")),
        ]
    for failure in record.failures:
        yield [run.heading, Cell(failure.stage), Cell("", status="failed"), Cell(recorded(failure.message))]
    for cell in record.cells:
        if cell.status in BAD:
            length, output = fmt.count(cell.input_len), fmt.count(cell.output_len)
            what = msg("failures.speed", input=length, output=output, concurrency=str(cell.concurrency))
            why = clauses(map(recorded, cell.reasons)) if cell.reasons else ""
            yield [run.heading, Cell(what), Cell("", status=cell.status), Cell(why)]
    for score in record.scores:
        if score.status in BAD:
            why = clauses(map(recorded, score.reasons)) if score.reasons else ""
            yield [run.heading, Cell(score.task), Cell("", status=score.status), Cell(why)]


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the list of failures; None if there are none."""
    rows = [row for run in runs(records) for row in _rows(run)]
    if not rows:
        return None
    heads = [
        Head(msg("head.variant")),
        Head(msg("failures.what")),
        Head(msg("head.status")),
        Head(msg("failures.reason")),
    ]
    table = Table(msg("failures.caption"), heads, [Group(rows)])
    return Section("failures", msg("failures.title"), [Text(msg("failures.lead")), table])
