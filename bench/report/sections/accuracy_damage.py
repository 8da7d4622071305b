"""Which answers changed against BF16: by subject, item by item, and by length of the prompt. None of it decides."""

from collections.abc import Sequence

from bench.analysis.damage import (
    ChangedItem,
    LengthBin,
    SubjectDamage,
    by_prompt_length,
    by_subject,
    changed_items,
    subject_note,
)
from bench.record import ItemOutcome, RunRecord, TaskScore
from bench.report import format as fmt
from bench.report.comparison_cells import delta_cell, p_cell
from bench.report.document import (
    Block,
    Cell,
    Details,
    Figure,
    Figures,
    Group,
    Head,
    Heading,
    Mark,
    Section,
    Table,
    Text,
    Verbatim,
    number,
)
from bench.report.forest_plot import ForestRow, forest
from bench.report.verdicts import Judged, judged
from bench.report.view import score_of

ORDER = 32

MOST = 50
"""Items lost, and items gained, that are shown of one variant and task; all of them are in its record."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEAD = (
    "What each variant lost and gained, to look at more closely. None of it changes a verdict: who looks at many "
    "subjects finds a bad one by chance, and where a lead is near 0 a tie was broken the other way."
)
LEADS = (
    "Choices are named A, B, … in their order. Below an answer stands its lead over the next best choice, nats. Moved "
    "is how far the two picks moved against each other."
)
SUBJECT_HEADS = (
    Head("Subject"),
    Head("Items", numeric=True),
    Head("BF16", "mean of the main metric", numeric=True),
    Head("Variant", "mean of the main metric", numeric=True),
    Head("Change", "percentage points; 95 % interval of this subject alone", numeric=True),
    Head("Gained, lost", "items", numeric=True),
    Head("McNemar p", "exact, not corrected", numeric=True),
    Head("Corrected p", "for the number of subjects (Holm): the one to read", numeric=True),
)
ITEM_HEADS = (
    Head("Subject"),
    Head("Item", "its number in the subject", numeric=True),
    Head("Right answer"),
    Head("BF16"),
    Head("Variant"),
    Head("Moved", "nats", numeric=True),
)
LENGTH_HEADS = (
    Head("Prompt tokens"),
    Head("Items", numeric=True),
    Head("BF16", "mean of the main metric", numeric=True),
    Head("Variant", "mean of the main metric", numeric=True),
    Head("Change", "percentage points; 95 % interval of these items alone", numeric=True),
)


def _subjects(found: Sequence[SubjectDamage], title: str) -> list[Block]:
    """Return the table of subjects, greatest loss first; nothing for a task without subjects."""
    if len(found) < 2:
        return []
    rows = [
        [
            Cell(one.subject),
            Cell(fmt.count(one.n), numeric=True),
            number(one.baseline_mean, fmt.share),
            number(one.variant_mean, fmt.share),
            delta_cell(one.delta),
            Cell(f"+{one.gained} −{one.lost}", numeric=True),
            p_cell(one.p),
            p_cell(one.p_holm),
        ]
        for one in found
    ]
    note = subject_note(found)
    table = Table(f"{title}: by subject, greatest loss first", SUBJECT_HEADS, [Group(rows)])
    return [Text(f"{note[0].upper()}{note[1:]}."), table]


def _choice(text: str) -> str:
    """Return a choice's letter for its number."""
    return LETTERS[int(text)] if text.isascii() and text.isdigit() and int(text) < len(LETTERS) else text


def _picked(item: ItemOutcome) -> Cell:
    """Return the cell of a picked choice with its lead over the next best."""
    best, *rest = sorted(item.logprobs, reverse=True)
    return Cell(_choice(item.answer), (f"by {fmt.significant(best - rest[0])}",) if rest else ())


def _choice_table(items: Sequence[ChangedItem], title: str) -> Table:
    rows = [
        [
            Cell(one.baseline.task),
            Cell(fmt.count(one.baseline.doc_id), numeric=True),
            Cell(_choice(one.baseline.target)),
            _picked(one.baseline),
            _picked(one.variant),
            number(one.margin, fmt.significant, "nats"),
        ]
        for one in items
    ]
    return Table(title, ITEM_HEADS, [Group(rows)])


def _told(item: ItemOutcome) -> str:
    return f" ({item.problem.replace('_', '-')})" if item.problem else ""


def _texts(one: ChangedItem) -> Details:
    """Return both generated answers in full."""
    before, after = one.baseline, one.variant
    blocks = [Verbatim(f"BF16{_told(before)}", before.answer), Verbatim(f"Variant{_told(after)}", after.answer)]
    return Details(f"{before.task}, item {fmt.count(before.doc_id)}: both answers", blocks)


def _items(items: Sequence[ChangedItem], what: str, title: str, run_id: str) -> list[Block]:
    """Return the items that were lost, or gained; nothing if there are none."""
    if not items:
        return []
    shown = items[:MOST]
    blocks: list[Block] = [Heading(f"{fmt.plural(len(items), 'item')} {what}")]
    choices = [one for one in shown if one.baseline.logprobs and one.variant.logprobs]
    if choices:
        blocks.append(_choice_table(choices, f"{title}: items {what}, clearest first"))
    blocks += [_texts(one) for one in shown if one not in choices]
    if len(items) > MOST:
        blocks.append(Text(f"{fmt.count(len(items) - MOST)} more are in the record of run {run_id}.", "small"))
    return blocks


def _span(one: LengthBin) -> str:
    if one.shortest_tokens == one.longest_tokens:
        return fmt.count(one.shortest_tokens)
    return f"{fmt.count(one.shortest_tokens)}–{fmt.count(one.longest_tokens)}"


def _lengths(found: Sequence[LengthBin], mark: Mark, title: str, name: str) -> list[Block]:
    """Return the change by length of the prompt, drawn and in figures; nothing if all are about equally long."""
    if len(found) < 2:
        return []
    rows = [
        [
            Cell(_span(one)),
            Cell(fmt.count(one.n), numeric=True),
            number(one.baseline_mean, fmt.share),
            number(one.variant_mean, fmt.share),
            delta_cell(one.delta),
        ]
        for one in found
    ]
    caption = f"{title}: change against BF16 by length of the prompt, tokens; 95 % intervals."
    points = [ForestRow(_span(one), mark, one.delta) for one in found]
    drawn = forest(points, name=name, description=caption, xlabel="change against BF16, percentage points")
    table = Table(f"{title}: by length of the prompt", LENGTH_HEADS, [Group(rows)])
    return [Heading("By length of the prompt"), Figures([Figure(drawn, caption)]), table]


def _details(one: Judged, baseline: TaskScore, name: str) -> Details:
    """Return everything that changed in one variant's answers to one task."""
    task, title = one.score.task, f"{one.run.label} on {one.score.task}"
    changed = changed_items(baseline, one.score)
    lost = [item for item in changed if item.change == "lost"]
    gained = [item for item in changed if item.change == "gained"]
    blocks = _subjects(by_subject(baseline, one.score), title)
    for items, what in ((lost, "lost"), (gained, "gained")):
        blocks += _items(items, what, title, one.run.record.run_id)
    blocks += _lengths(by_prompt_length(baseline, one.score) or (), one.run.mark, title, name)
    return Details(f"{one.run.label} on {task}: {len(lost)} lost, {len(gained)} gained", blocks)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return what changed in the answers; None if nothing is compared."""
    found = [one for one in judged(records) if one.verdict]
    blocks: list[Block] = [Text(LEAD), Text(LEADS, "small")]
    for index, one in enumerate(found):
        baseline = score_of(one.run.baseline, one.score.task) if one.run.baseline else None
        if baseline is not None:
            blocks.append(_details(one, baseline, f"changed{index}"))
    return Section("changed", "Which answers changed", blocks) if found else None
