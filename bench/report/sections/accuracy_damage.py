"""Which answers changed against BF16: by subject, item by item, and by length of the prompt. None of it decides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.analysis.damage import (
    ChangedItem,
    LengthBin,
    SubjectDamage,
    by_prompt_length,
    by_subject,
    changed_items,
    subject_note,
)
from bench.records.record import ItemOutcome, RunRecord, TaskScore
from bench.report.cells import delta_cell, nats, p_cell
from bench.report.document import (
    Block,
    Cell,
    Details,
    Figure,
    Figures,
    Group,
    Head,
    Heading,
    Section,
    Table,
    Text,
    Verbatim,
    number,
)
from bench.report.plots.base import Point, Series, by_length
from bench.report.verdicts import Judged, judged
from bench.report.view import Run, runs

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


@dataclass(frozen=True)
class Change:
    """A variant's answers to one task beside BF16's."""

    judged: Judged
    baseline_run: Run
    baseline: TaskScore
    lengths: tuple[LengthBin, ...]
    """Empty if all prompts are about equally long."""


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
    return Cell(_choice(item.answer), (f"by {nats(best - rest[0])}",) if rest else ())


def _choice_table(items: Sequence[ChangedItem], title: str) -> Table:
    rows = [
        [
            Cell(one.baseline.task),
            Cell(fmt.count(one.baseline.doc_id), numeric=True),
            Cell(_choice(one.baseline.target)),
            _picked(one.baseline),
            _picked(one.variant),
            number(one.margin_nats, nats, "nats"),
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


def _lengths(found: Sequence[LengthBin], title: str) -> list[Block]:
    """Return the change by length of the prompt; nothing if all are about equally long."""
    if not found:
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
    return [
        Heading("By length of the prompt"),
        Table(f"{title}: by length of the prompt", LENGTH_HEADS, [Group(rows)]),
    ]


def _series(run: Run, found: Sequence[LengthBin], values: Iterable[float]) -> Series:
    """Return a line through the scores of each bin, at the middle of its lengths."""
    middles = [round((one.shortest_tokens * one.longest_tokens) ** 0.5) for one in found]
    return Series(run.label, run.mark, tuple(Point(at, one, one, one) for at, one in zip(middles, values, strict=True)))


def _length_figure(changes: Sequence[Change], name: str) -> Figure:
    """Return one task's scores by length of the prompt."""
    lines = {one.baseline_run.label: _series(one.baseline_run, one.lengths, _means(one)[0]) for one in changes}
    lines |= {one.judged.run.label: _series(one.judged.run, one.lengths, _means(one)[1]) for one in changes}
    caption = f"{changes[0].judged.score.task}: mean of the main metric by length of the prompt, tokens."
    drawn = by_length(
        list(lines.values()), name=name, description=caption, ylabel="score", show=fmt.significant, log=False
    )
    return Figure(drawn, caption)


def _means(change: Change) -> tuple[list[float], list[float]]:
    """Return BF16's and the variant's means by length of the prompt."""
    return [one.baseline_mean for one in change.lengths], [one.variant_mean for one in change.lengths]


def _details(change: Change) -> Details:
    """Return everything that changed in one variant's answers to one task."""
    run, score, baseline = change.judged.run, change.judged.score, change.baseline
    title = f"{run.label} on {score.task}"
    changed = changed_items(baseline, score)
    lost = [item for item in changed if item.change == "lost"]
    gained = [item for item in changed if item.change == "gained"]
    blocks = _subjects(by_subject(baseline, score), title)
    for items, what in ((lost, "lost"), (gained, "gained")):
        blocks += _items(items, what, title, run.record.run_id)
    blocks += _lengths(change.lengths, title)
    return Details(f"{title}: {len(lost)} lost, {len(gained)} gained", blocks)


def _changes(records: Sequence[RunRecord]) -> list[Change]:
    run_of = {id(run.record): run for run in runs(records)}
    found = []
    for one in judged(records):
        before = run_of[id(one.run.baseline)] if one.run.baseline else None
        baseline = before.score(one.score.task) if before else None
        if one.verdict and before and baseline:
            lengths = by_prompt_length(baseline, one.score) or ()
            found.append(Change(one, before, baseline, lengths if len(lengths) > 1 else ()))
    return found


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return what changed in the answers; None if nothing is compared."""
    changes = _changes(records)
    if not changes:
        return None
    by_task: dict[str, list[Change]] = {}
    for change in changes:
        if change.lengths:
            by_task.setdefault(change.judged.score.task, []).append(change)
    figures = [_length_figure(some, f"changed{index}") for index, some in enumerate(by_task.values())]
    blocks: list[Block] = [Text(LEAD), Text(LEADS, "small"), *map(_details, changes)]
    if figures:
        marks = {run.label: run.mark for one in changes for run in (one.baseline_run, one.judged.run)}
        legend = [(mark, label) for label, mark in marks.items()]
        blocks += [Heading("By length of the prompt"), Figures(figures, legend)]
    return Section("changed", "Which answers changed", blocks)
