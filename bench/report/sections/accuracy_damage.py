"""Answers that changed against BF16: by subject, by item, and by length of the prompt. No verdict depends on them."""

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
from bench.messages.message import Words, msg
from bench.records.record import ItemOutcome, RunRecord, TaskScore
from bench.records.words import PROBLEM
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
    Mark,
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
"""Maximum number of items lost, and of items gained, shown for a variant and task; its record has all of them."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SUBJECT_HEADS = (
    Head(msg("head.subject")),
    Head(msg("head.items"), numeric=True),
    Head("BF16", msg("changed.mean.help"), numeric=True),
    Head(msg("head.variant"), msg("changed.mean.help"), numeric=True),
    Head(msg("head.change"), msg("changed.subject.change.help"), numeric=True),
    Head(msg("changed.flips"), msg("changed.flips.help"), numeric=True),
    Head(msg("head.mcnemar"), msg("changed.mcnemar.help"), numeric=True),
    Head(msg("changed.corrected_p"), msg("changed.corrected_p.help"), numeric=True),
)
ITEM_HEADS = (
    Head(msg("head.subject")),
    Head(msg("changed.item"), msg("changed.item.help"), numeric=True),
    Head(msg("changed.right_answer")),
    Head("BF16"),
    Head(msg("head.variant")),
    Head(msg("changed.moved"), "nats", numeric=True),
)
LENGTH_HEADS = (
    Head(msg("head.prompt_tokens")),
    Head(msg("head.items"), numeric=True),
    Head("BF16", msg("changed.mean.help"), numeric=True),
    Head(msg("head.variant"), msg("changed.mean.help"), numeric=True),
    Head(msg("head.change"), msg("changed.length.change.help"), numeric=True),
)


@dataclass(frozen=True)
class Change:
    """A variant's answers to one task, compared with BF16's."""

    judged: Judged
    baseline_run: Run
    baseline: TaskScore
    lengths: tuple[LengthBin, ...]
    """Empty if all prompts are about equally long."""


def _subjects(subjects: Sequence[SubjectDamage], title: Words) -> list[Block]:
    """Return the table of subjects, greatest loss first; nothing for a task without subjects."""
    if len(subjects) < 2:
        return []
    rows = [
        [
            Cell(subject.subject),
            Cell(fmt.count(subject.n), numeric=True),
            number(subject.baseline_mean, fmt.share),
            number(subject.variant_mean, fmt.share),
            delta_cell(subject.delta),
            Cell(f"+{subject.gained} −{subject.lost}", numeric=True),
            p_cell(subject.p),
            p_cell(subject.p_holm),
        ]
        for subject in subjects
    ]
    table = Table(msg("changed.by_subject", title=title), SUBJECT_HEADS, [Group(rows)])
    return [Text(subject_note(subjects)), table]


def _choice(text: str) -> str:
    """Return a choice's letter for its number."""
    return LETTERS[int(text)] if text.isascii() and text.isdigit() and int(text) < len(LETTERS) else text


def _picked(item: ItemOutcome) -> Cell:
    """Return the cell of a picked choice with its lead over the next best."""
    best, *rest = sorted(item.logprobs, reverse=True)
    return Cell(_choice(item.answer), (msg("changed.lead_of", lead=nats(best - rest[0])),) if rest else ())


def _choice_table(items: Sequence[ChangedItem], caption: Words) -> Table:
    rows = [
        [
            Cell(item.baseline.task),
            Cell(fmt.count(item.baseline.doc_id), numeric=True),
            Cell(_choice(item.baseline.target)),
            _picked(item.baseline),
            _picked(item.variant),
            number(item.margin_nats, nats, "nats"),
        ]
        for item in items
    ]
    return Table(caption, ITEM_HEADS, [Group(rows)])


def _answer(who: Words, item: ItemOutcome) -> Verbatim:
    """Return a generated answer in full."""
    title = msg("changed.with_problem", who=who, problem=PROBLEM[item.problem]) if item.problem else who
    return Verbatim(title, item.answer)


def _texts(item: ChangedItem) -> Details:
    """Return both generated answers in full."""
    before, after = item.baseline, item.variant
    summary = msg("changed.both_answers", task=before.task, item=fmt.count(before.doc_id))
    return Details(summary, [_answer("BF16", before), _answer(msg("head.variant"), after)])


def _items(items: Sequence[ChangedItem], heading: Words, caption: Words, run_id: str) -> list[Block]:
    """Return the items that were lost, or gained; nothing if there are none."""
    if not items:
        return []
    shown = items[:MOST]
    blocks: list[Block] = [Heading(heading)]
    choices = [item for item in shown if item.baseline.logprobs and item.variant.logprobs]
    if choices:
        blocks.append(_choice_table(choices, caption))
    blocks += [_texts(item) for item in shown if item not in choices]
    if len(items) > MOST:
        blocks.append(Text(msg("changed.more", more=fmt.count(len(items) - MOST), run=run_id), "small"))
    return blocks


def _span(length_bin: LengthBin) -> str:
    if length_bin.shortest_tokens == length_bin.longest_tokens:
        return fmt.count(length_bin.shortest_tokens)
    return f"{fmt.count(length_bin.shortest_tokens)}–{fmt.count(length_bin.longest_tokens)}"


def _lengths(bins: Sequence[LengthBin], title: Words) -> list[Block]:
    """Return the change by length of the prompt; nothing if all are about equally long."""
    if not bins:
        return []
    rows = [
        [
            Cell(_span(length_bin)),
            Cell(fmt.count(length_bin.n), numeric=True),
            number(length_bin.baseline_mean, fmt.share),
            number(length_bin.variant_mean, fmt.share),
            delta_cell(length_bin.delta),
        ]
        for length_bin in bins
    ]
    return [
        Heading(msg("changed.by_length")),
        Table(msg("changed.length.table", title=title), LENGTH_HEADS, [Group(rows)]),
    ]


def _series(run: Run, bins: Sequence[LengthBin], means: Iterable[float]) -> Series:
    """Return a line through the scores of each bin, at the middle of its lengths."""
    middles = [round((length.shortest_tokens * length.longest_tokens) ** 0.5) for length in bins]
    points = (Point(at, mean, mean, mean) for at, mean in zip(middles, means, strict=True))
    return Series(run.label, run.mark, tuple(points))


def _length_figure(changes: Sequence[Change], name: str) -> Figure:
    """Return one task's scores by length of the prompt."""
    lines = {
        change.baseline_run.label: _series(change.baseline_run, change.lengths, _means(change)[0]) for change in changes
    }
    lines |= {
        change.judged.run.label: _series(change.judged.run, change.lengths, _means(change)[1]) for change in changes
    }
    caption = msg("changed.length.caption", task=changes[0].judged.score.task)
    ylabel = msg("changed.score")
    drawn = by_length(
        list(lines.values()), name=name, description=caption, ylabel=ylabel, show=fmt.significant, log=False
    )
    return Figure(drawn, caption)


def _means(change: Change) -> tuple[list[float], list[float]]:
    """Return BF16's and the variant's means by length of the prompt."""
    baseline = [length_bin.baseline_mean for length_bin in change.lengths]
    return baseline, [length_bin.variant_mean for length_bin in change.lengths]


def _details(change: Change) -> Details:
    """Return everything that changed in one variant's answers to one task."""
    run, score, baseline = change.judged.run, change.judged.score, change.baseline
    title = msg("changed.title", label=run.label, task=score.task)
    changed = changed_items(baseline, score)
    lost = [item for item in changed if item.change == "lost"]
    gained = [item for item in changed if item.change == "gained"]
    blocks = _subjects(by_subject(baseline, score), title)
    heading, caption = msg("changed.lost", n=len(lost)), msg("changed.lost.caption", title=title)
    blocks += _items(lost, heading, caption, run.record.run_id)
    heading, caption = msg("changed.gained", n=len(gained)), msg("changed.gained.caption", title=title)
    blocks += _items(gained, heading, caption, run.record.run_id)
    blocks += _lengths(change.lengths, title)
    return Details(msg("changed.summary", title=title, lost=str(len(lost)), gained=str(len(gained))), blocks)


def _changes(records: Sequence[RunRecord]) -> list[Change]:
    run_of = {id(run.record): run for run in runs(records)}
    changes = []
    for entry in judged(records):
        before = run_of[id(entry.run.baseline)] if entry.run.baseline else None
        baseline = before.score(entry.score.task) if before else None
        if entry.verdict and before and baseline:
            lengths = by_prompt_length(baseline, entry.score) or ()
            changes.append(Change(entry, before, baseline, lengths if len(lengths) > 1 else ()))
    return changes


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return what changed in the answers; None if nothing is compared."""
    changes = _changes(records)
    if not changes:
        return None
    by_task: dict[str, list[Change]] = {}
    for change in changes:
        if change.lengths:
            by_task.setdefault(change.judged.score.task, []).append(change)
    figures = [_length_figure(of_task, f"changed{index}") for index, of_task in enumerate(by_task.values())]
    lead, leads = Text(msg("changed.lead")), Text(msg("changed.leads"), "small")
    blocks: list[Block] = [lead, leads, *map(_details, changes)]
    if figures:
        marks = {run.label: run.mark for change in changes for run in (change.baseline_run, change.judged.run)}
        legend: list[tuple[Mark, Words]] = [(mark, label) for label, mark in marks.items()]
        blocks += [Heading(msg("changed.by_length")), Figures(figures, legend)]
    return Section("changed", msg("changed.section"), blocks)
