"""Accuracy verdicts against BF16 for every variant and task, as charts and a table, with the noise floor of BF16."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from bench import format as fmt
from bench.analysis.paired import Comparison
from bench.analysis.verdict import Verdict
from bench.messages.message import Message, Words, clauses, linked, listed, msg, sentences
from bench.records.record import RunRecord, TaskScore
from bench.report.cells import delta_cell, flips_cell, kl_cell, p_cell, p_text, points, recovery_cell
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Note, Section, Table, Text
from bench.report.plots.forest import ForestRow, forest
from bench.report.recorded import recorded
from bench.report.units import OF_ONE
from bench.report.verdicts import VERDICT, Judged, NoiseFloor, judged, noise_floors
from bench.report.view import score_of, tasks

ORDER = 16

HEADS = (
    Head(msg("head.variant")),
    Head(msg("verdict.head"), msg("verdict.head.help")),
    Head(msg("head.change"), msg("verdict.change.help"), numeric=True),
    Head(msg("verdict.recovery"), msg("verdict.recovery.help"), numeric=True),
    Head(msg("verdict.flips"), msg("verdict.flips.help"), numeric=True),
    Head(msg("head.mcnemar"), msg("verdict.mcnemar.help"), numeric=True),
    Head(msg("verdict.choice_kl"), msg("verdict.choice_kl.help"), numeric=True),
    Head(msg("verdict.visible_loss"), msg("verdict.visible_loss.help"), numeric=True),
)


def _figures_of(comparison: Comparison) -> list[Cell]:
    """Return change, recovery and flips."""
    return [delta_cell(comparison.delta), recovery_cell(comparison.recovery), flips_cell(comparison)]


def _unpaired(comparison: Comparison) -> tuple[Words, ...]:
    return (msg("verdict.unpaired", n=comparison.unpaired),) if comparison.unpaired else ()


def _refused(score: TaskScore, obstacle: Words) -> Cell:
    """Return why a score is not compared."""
    notes = () if score.valid else tuple(map(recorded, score.reasons))
    return Cell(msg("verdict.not_compared.why", why=obstacle), notes, span=len(HEADS) - 1)


def _again(label: str) -> Words:
    """Return the label of BF16's repeat."""
    return msg("verdict.again", label=label)


def _row(judgement: Judged) -> list[Cell]:
    if judgement.verdict is None:
        return [judgement.run.heading, _refused(judgement.score, judgement.obstacle)]
    comparison = judgement.verdict.comparison
    return [
        judgement.run.heading,
        Cell("", (judgement.verdict.reason, *_unpaired(comparison)), verdict=judgement.verdict.kind),
        *_figures_of(comparison),
        replace(p_cell(comparison.mcnemar_p), notes=(msg("verdict.holm", p=p_text(judgement.verdict.p_worse_holm)),)),
        kl_cell(comparison.choice_kl_nats),
        Cell(
            f"{points(judgement.verdict.mde, signed=False)} pp",
            exact=msg("exact.value", value=repr(judgement.verdict.mde), unit=OF_ONE),
            numeric=True,
        ),
    ]


def _floor_row(floor: NoiseFloor) -> list[Cell]:
    heading = replace(floor.run.heading, text=_again(floor.run.label))
    if floor.comparison is None:
        return [heading, _refused(floor.score, floor.obstacle)]
    return [
        heading,
        Cell(msg("verdict.noise_floor"), (msg("verdict.noise_floor.note"), *_unpaired(floor.comparison))),
        *_figures_of(floor.comparison),
        p_cell(floor.comparison.mcnemar_p),
        kl_cell(floor.comparison.choice_kl_nats),
        Cell(numeric=True),
    ]


def _figure(
    judgements: Sequence[Judged], floors: Sequence[NoiseFloor], margin: float | None, task: str, name: str
) -> Figure | None:
    """Return one task's differences with their intervals; None if nothing of it is compared."""
    rows = [
        ForestRow(run.label, run.mark, verdict.comparison.delta, verdict.simultaneous, VERDICT[verdict.kind])
        for run, verdict in (
            (judgement.run, judgement.verdict) for judgement in judgements if judgement.score.task == task
        )
        if verdict
    ]
    rows += [
        ForestRow(
            _again(floor.run.label),
            floor.run.mark,
            floor.comparison.delta,
            words=msg("verdict.noise_floor"),
            hollow=True,
        )
        for floor in floors
        if floor.comparison and floor.score.task == task
    ]
    if not rows:
        return None
    changes = clauses(
        msg("forest.row", label=row.label, change=f"{100 * row.delta.value:+.1f}", words=row.words) for row in rows
    )
    drawing = forest(
        rows,
        name=name,
        description=msg("forest.description", task=task, changes=changes),
        xlabel=msg("forest.change"),
        margin=margin,
    )
    return Figure(drawing, msg("forest.caption", task=task), title=task)


def _scale(margin: float | None) -> Message:
    """Return the key to the lines of a chart."""
    if margin is None:
        return msg("forest.scale")
    return msg("forest.scale.margin", margin=f"{100 * margin:g}")


def _lead(verdicts: Sequence[Verdict], margins: Sequence[float]) -> Message:
    """Return how many verdicts there are of each kind."""
    kinds = Counter(verdict.kind for verdict in verdicts)
    counts = listed(
        msg("verdict.count", times=str(kinds[kind]), verdict=VERDICT[kind]) for kind in VERDICT if kinds[kind]
    )
    margin = linked(msg("word.pp", points=f"{100 * margin:g}") for margin in margins)
    return msg("verdict.lead", n=len(verdicts), margin=margin, counts=counts)


def _too_few(most: Verdict) -> Note:
    """Return the note for inconclusive verdicts only, with the figures of the comparison with the most items."""
    items = msg("verdict.too_few.items", n=most.comparison.n, task=most.comparison.task)
    visible, needed = points(most.mde, signed=False), fmt.count(most.items_needed)
    text = msg("verdict.too_few", items=items, visible=visible, needed=needed, loss=f"{100 * most.margin:g}")
    return Note(msg("verdict.too_few.title"), text)


def _guessing(judgement: Judged) -> Message | None:
    """Return the warning that BF16 may be guessing; None if it is significantly above chance."""
    before = score_of(judgement.run.baseline, judgement.score.task) if judgement.run.baseline else None
    if before is None or not before.items or not all(item.logprobs for item in before.items):
        return None
    metric, chance = before.metrics[0], fmean(1 / len(item.logprobs) for item in before.items)
    if metric.value - 2 * (metric.stderr or 0.0) > chance:
        return None
    model, right = judgement.run.record.variant.model, fmt.percent(metric.value)
    return msg("verdict.guessing", task=before.task, model=model, right=right, chance=fmt.percent(chance))


def _table(judgements: Sequence[Judged], floors: Sequence[NoiseFloor], names: Sequence[str]) -> Table:
    groups = []
    for task in names:
        rows = [_row(judgement) for judgement in judgements if judgement.score.task == task]
        rows += [_floor_row(floor) for floor in floors if floor.score.task == task]
        if rows:
            groups.append(Group(rows, task))
    return Table(msg("verdict.caption"), HEADS, groups)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the verdicts; None if there is nothing to compare."""
    judgements, floors, names = judged(records), noise_floors(records), tasks(records)
    if not judgements and not floors:
        return None
    verdicts = [judgement.verdict for judgement in judgements if judgement.verdict]
    margins = list(dict.fromkeys(verdict.margin for verdict in verdicts))
    margin = margins[0] if len(margins) == 1 else None
    blocks: list[Block] = [Text(_lead(verdicts, margins), "lead")] if verdicts else []
    if verdicts and all(verdict.kind == "inconclusive" for verdict in verdicts):
        blocks.append(_too_few(max(verdicts, key=lambda verdict: verdict.comparison.n)))
    guessing = dict.fromkeys(text for judgement in judgements if judgement.verdict and (text := _guessing(judgement)))
    blocks += [Note(msg("verdict.guessing.title"), sentences(guessing))] if guessing else []
    by_task = [_figure(judgements, floors, margin, task, f"verdict{index}") for index, task in enumerate(names)]
    figures = [figure for figure in by_task if figure]
    if figures:
        blocks += [Figures(figures), Text(_scale(margin), "small")]
    floor = msg("verdict.floor") if floors else msg("verdict.no_floor")
    blocks += [_table(judgements, floors, names), Text(msg("verdict.how"), "small"), Text(floor, "small")]
    return Section("verdict", msg("verdict.title"), blocks)
