"""Sentences that are repeated everywhere, held against published and measured figures of the report's models."""

from collections import Counter
from collections.abc import Sequence

from bench import format as fmt
from bench.published.claims import Finding
from bench.published.figures import claims, sources
from bench.records.record import RunRecord
from bench.report.claims import findings
from bench.report.document import Block, Cell, Details, Group, Head, Section, Table, Text

ORDER = 57

LEAD = (
    "Each sentence against each figure that there is of the models in this report. A figure with an interval decides "
    "only if that lies on one side; a published speed has none and decides alone."
)
MEANING = {
    "accuracy": "Loss relative to BF16 with its 95 % interval where there is one, and in percentage points.",
    "speed": "How much faster than BF16 a whole request is, by the input's length.",
}


def _column(one: Finding) -> str:
    """Return what a finding's column is headed: the input's length, or the task."""
    return fmt.count(one.input_len) if one.input_len else one.where


def _row_of(one: Finding) -> tuple[str, str, str, bool]:
    """Return what findings of one row have in common: variant, place, source, and whether they were measured here."""
    return f"{one.model} {one.label}", one.where if one.input_len else "", one.source, one.measured


def _answer(one: Finding) -> Cell:
    spread = () if one.low is None or one.high is None else (fmt.between(fmt.percent(one.low), fmt.percent(one.high)),)
    points = () if one.points is None else (f"{fmt.points(-one.points)}",)
    notes = (fmt.percent(one.value), *spread, *points)
    return Cell(one.answer, notes, f"{one.value!r} of 1", faint=not one.measured)


def _table(says: str, found: Sequence[Finding]) -> Table:
    by_length = found[0].claim.figure == "speed"
    columns = dict.fromkeys(map(_column, sorted(found, key=lambda one: one.input_len or 0)))
    rows = []
    for row in dict.fromkeys(map(_row_of, found)):
        answers = {_column(one): _answer(one) for one in found if _row_of(one) == row}
        variant, where, source, measured = row
        told = "measured here" if measured else f"published: {sources()[source].title}"
        heading = Cell(variant, (*((f"on {where}",) if where else ()), told), faint=not measured)
        rows.append([heading, *(answers.get(column, Cell()) for column in columns)])
    help_text = "tokens of input" if by_length else "task"
    return Table(f"“{says}”", [Head("Variant"), *(Head(column, help_text) for column in columns)], [Group(rows)])


def _summary(found: Sequence[Finding]) -> str:
    told = Counter(one.answer for one in found)
    figures = {answer: fmt.plural(told[answer], "figure") for answer in ("holds", "does not hold", "cannot be told")}
    return ", ".join(f"{answer} for {number}" for answer, number in figures.items())


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return one folded table for each claim; None where there is no figure of the report's models."""
    models = {record.variant.model.partition("[")[0] for record in records}
    found = [one for one in findings(records) if one.measured or one.model in models]
    if all(one.measured for one in found):
        return None
    blocks: list[Block] = [Text(LEAD)]
    for claim in claims():
        mine = [one for one in found if one.claim == claim]
        if mine:
            table = _table(claim.says, mine)
            blocks.append(Details(f"“{claim.says}”: {_summary(mine)}", [Text(MEANING[claim.figure], "small"), table]))
    return Section("claims", "What is said everywhere", blocks)
