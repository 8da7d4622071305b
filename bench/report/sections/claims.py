"""Common claims, checked against published and measured results of the report's models."""

from collections import Counter
from collections.abc import Sequence

from bench import format as fmt
from bench.messages.message import Message, Words, listed, msg
from bench.published.claims import Answer, Finding
from bench.published.figures import Claim, claims, sources
from bench.records.record import RunRecord
from bench.report.claims import findings
from bench.report.document import Block, Cell, Details, Group, Head, Section, Table, Text
from bench.report.units import OF_ONE

ORDER = 57

CLAIMS = {
    "fp8-accuracy": msg("claims.fp8_accuracy"),
    "int4-accuracy": msg("claims.int4_accuracy"),
    "int8-accuracy": msg("claims.int8_accuracy"),
    "fp8-speed": msg("claims.fp8_speed"),
    "int4-speed": msg("claims.int4_speed"),
    "int8-speed": msg("claims.int8_speed"),
}
"""{id of a claim: its text}; a claim that is not listed is quoted from its file."""
MEANING = {"accuracy": msg("claims.accuracy.meaning"), "speed": msg("claims.speed.meaning")}
ANSWERS: dict[Answer, Message] = {
    "holds": msg("claims.holds"),
    "does not hold": msg("claims.does_not_hold"),
    "undecided": msg("claims.undecided"),
}


def _says(claim: Claim) -> Message:
    """Return a claim in quotation marks."""
    return msg("claims.quoted", says=CLAIMS.get(claim.id, claim.says))


def _column(finding: Finding) -> Words:
    """Return the heading of a finding's column: the input length or the task."""
    return fmt.count(finding.input_len) if finding.input_len else finding.where


def _row_of(finding: Finding) -> tuple[str, Words, str, bool]:
    """Return what findings of one row have in common: variant, place, source, and whether they were measured here."""
    return (
        f"{finding.model} {finding.label}",
        finding.where if finding.input_len else "",
        finding.source,
        finding.measured,
    )


def _answer(finding: Finding) -> Cell:
    spread: tuple[str, ...] = ()
    if finding.low is not None and finding.high is not None:
        spread = (fmt.between(fmt.percent(finding.low), fmt.percent(finding.high)),)
    points = () if finding.points is None else (f"{fmt.points(-finding.points)}",)
    notes = (fmt.percent(finding.value), *spread, *points)
    return Cell(
        ANSWERS[finding.answer],
        notes,
        msg("exact.value", value=repr(finding.value), unit=OF_ONE),
        faint=not finding.measured,
    )


def _table(claim: Claim, of_claim: Sequence[Finding]) -> Table:
    by_length = claim.figure == "speed"
    columns = dict.fromkeys(map(_column, sorted(of_claim, key=lambda finding: finding.input_len or 0)))
    rows = []
    for row in dict.fromkeys(map(_row_of, of_claim)):
        answers = {_column(finding): _answer(finding) for finding in of_claim if _row_of(finding) == row}
        variant, where, source, measured = row
        origin = msg("claims.measured") if measured else msg("claims.published", source=sources()[source].title)
        heading = Cell(variant, (*((msg("claims.on", where=where),) if where else ()), origin), faint=not measured)
        rows.append([heading, *(answers.get(column, Cell()) for column in columns)])
    help_text = msg("claims.length.help") if by_length else msg("claims.task.help")
    heads = [Head(msg("head.variant")), *(Head(column, help_text) for column in columns)]
    return Table(_says(claim), heads, [Group(rows)])


def _summary(of_claim: Sequence[Finding]) -> Words:
    counts = Counter(finding.answer for finding in of_claim)
    return listed(msg("claims.count", answer=words, n=counts[answer]) for answer, words in ANSWERS.items())


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return one folded table for each claim; None if nothing is published about the report's models."""
    models = {record.variant.model.partition("[")[0] for record in records}
    relevant = [finding for finding in findings(records) if finding.measured or finding.model in models]
    if all(finding.measured for finding in relevant):
        return None
    blocks: list[Block] = [Text(msg("claims.lead"))]
    for claim in claims():
        of_claim = [finding for finding in relevant if finding.claim == claim]
        if of_claim:
            summary = msg("claims.summary", claim=_says(claim), counts=_summary(of_claim))
            blocks.append(Details(summary, [Text(MEANING[claim.figure], "small"), _table(claim, of_claim)]))
    return Section("claims", msg("claims.title"), blocks)
