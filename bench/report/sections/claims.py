"""Sentences that are repeated everywhere, held against published and measured figures of the report's models."""

from collections import Counter
from collections.abc import Sequence

from bench.analysis.claims import Finding
from bench.published import claims
from bench.record import RunRecord
from bench.report import format as fmt
from bench.report.claims import findings
from bench.report.document import Block, Cell, Details, Group, Head, Section, Table, Text, number

ORDER = 37

LEAD = (
    "Each sentence against each figure that there is of the models in this report. Losses are relative to BF16. A "
    "figure with an interval decides only if that lies on one side; a published speed has none and decides alone."
)


def _row(one: Finding) -> list[Cell]:
    spread = () if one.low is None or one.high is None else (fmt.between(fmt.share(one.low), fmt.share(one.high)),)
    return [
        Cell(one.label, (one.model,)),
        Cell(one.answer),
        Cell(one.where),
        Cell(fmt.count(one.input_len), numeric=True) if one.input_len else Cell(numeric=True),
        number(one.value, fmt.share, notes=spread),
        Cell("measured here" if one.measured else "published", (one.source,), faint=not one.measured),
    ]


def _summary(found: Sequence[Finding]) -> str:
    told = Counter(one.answer for one in found)
    return ", ".join(f"{answer} {told[answer]} times" for answer in ("holds", "does not hold", "cannot be told"))


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return one folded table for each claim; None where there is no figure of the report's models."""
    models = {record.variant.model for record in records} | {
        record.variant.model.partition("[")[0] for record in records
    }
    found = [one for one in findings(records) if one.measured or one.model in models]
    if not any(not one.measured for one in found):
        return None
    blocks: list[Block] = [Text(LEAD)]
    for claim in claims():
        mine = [one for one in found if one.claim == claim]
        if mine:
            heads = [
                Head("Variant"),
                Head("Answer"),
                Head("Task or engine"),
                Head("Input", "tokens", numeric=True),
                Head("Loss" if claim.figure == "accuracy" else "Faster by", numeric=True),
                Head("Source"),
            ]
            table = Table(f"“{claim.says}”", heads, [Group([_row(one) for one in mine])])
            blocks.append(Details(f"“{claim.says}”: {_summary(mine)}", [table]))
    return Section("claims", "What is said everywhere", blocks)
