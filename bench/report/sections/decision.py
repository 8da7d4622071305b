"""Which variant to use: the recommendation, a row per variant with its reason, and accuracy against the goal."""

from collections.abc import Sequence

from bench import format as fmt
from bench.analysis.constraints import Answer, Candidate, Decision
from bench.messages.message import Message, clauses, msg
from bench.records.margin import in_points
from bench.records.record import RunRecord
from bench.report.cells import points, to
from bench.report.decision import SHOW, decision
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Heading, Section, Table, Text
from bench.report.plots.pareto import VariantPoint, pareto
from bench.report.view import Run, runs

ORDER = 5

HEADS = (
    Head(msg("head.variant")),
    Head(msg("decision.place")),
    Head(msg("decision.goal"), msg("decision.goal.help"), numeric=True),
    Head(msg("head.accuracy"), msg("decision.accuracy.help"), numeric=True),
    Head(msg("decision.front"), msg("decision.front.help")),
    Head(msg("head.why")),
)
PLACES: dict[Answer, Message] = {
    "kept": msg("decision.may_be_used"),
    "unsure": msg("decision.undecided"),
    "not known": msg("decision.not_known"),
    "broken": msg("decision.not_recommended"),
}


def _goal_cell(choice: Decision, candidate: Candidate) -> Cell:
    if candidate.goal is None:
        return Cell(msg("decision.not_known"), numeric=True)
    show = SHOW.get(choice.subject, fmt.share)
    median, low, high = candidate.goal.median, candidate.goal.low, candidate.goal.high
    notes = () if low == high else (fmt.between(show(low), show(high)),)
    return Cell(show(median), notes, repr(median), numeric=True)


def _accuracy_cell(candidate: Candidate, run: Run) -> Cell:
    if not run.quantized:
        return Cell(msg("decision.baseline"), numeric=True)
    if candidate.accuracy is None:
        return Cell(
            msg("decision.not_complete") if candidate.gaps else msg("decision.not_known"), candidate.gaps, numeric=True
        )
    change = candidate.accuracy
    width = change.high - change.low
    low, high = points(change.low, width), points(change.high, width)
    return Cell(f"{points(change.median, width)} pp", (to(low, high),), repr(change.median), numeric=True)


def _row(choice: Decision, candidate: Candidate, run: Run) -> list[Cell]:
    best = choice.recommended is not None and candidate.run_id == choice.recommended.run_id
    why = clauses(held.reason for held in candidate.held) if candidate.held else msg("decision.no_accuracy")
    place = PLACES[candidate.standing if choice.margin else "not known"]
    return [
        run.heading,
        Cell(msg("decision.recommended") if best else place),
        _goal_cell(choice, candidate),
        _accuracy_cell(candidate, run),
        Cell(msg("word.yes") if candidate.run_id in choice.front else msg("word.no")),
        Cell(why),
    ]


def _drawing(choice: Decision, by_id: dict[str, Run], name: str) -> Figure | None:
    """Return accuracy against the goal; None if fewer than two variants have both."""
    variants = [
        VariantPoint(
            by_id[candidate.run_id].label,
            by_id[candidate.run_id].mark,
            candidate.goal,
            candidate.accuracy,
            candidate.run_id in choice.front,
        )
        for candidate in (*choice.ranked, *choice.fallen)
        if candidate.goal and candidate.accuracy
    ]
    if len(variants) < 2:
        return None
    caption = msg("pareto.caption.left") if choice.lower_is_better else msg("pareto.caption.right")
    changes = "; ".join(f"{variant.label} {100 * variant.y.median:+.1f} pp" for variant in variants)
    drawing = pareto(
        variants,
        name=name,
        description=msg("pareto.description", goal=choice.goal, changes=changes),
        xlabel=choice.goal,
        show=SHOW.get(choice.subject, fmt.share),
    )
    return Figure(drawing, caption, title=msg("pareto.title"))


def _lead(choice: Decision, by_id: dict[str, Run]) -> Message:
    if choice.margin is None:
        return msg("decision.nothing_measured")
    best = choice.recommended
    if best is None:
        return msg("decision.none")
    unsure = [
        candidate.label
        for candidate in (*choice.ranked, *choice.fallen)
        if candidate.standing in ("unsure", "not known")
    ]
    if unsure and not by_id[best.run_id].quantized:
        return msg("decision.only_baseline", label=best.label, others=", ".join(unsure))
    if best.standing == "kept":
        return msg("decision.use", label=best.label, goal=choice.goal)
    return msg("decision.best_of_unsure", label=best.label, goal=choice.goal)


def _of_model(everything: Sequence[Run], records: Sequence[RunRecord], name: str) -> list[Block]:
    choice = decision(records)
    by_id = {run.record.run_id: run for run in everything}
    rows = [_row(choice, candidate, by_id[candidate.run_id]) for candidate in (*choice.ranked, *choice.fallen)]
    blocks: list[Block] = [Text(_lead(choice, by_id), "lead")]
    if choice.margin and len(choice.margin.declared) > 1:
        every = ", ".join(map(in_points, choice.margin.declared))
        blocks.append(Text(msg("decision.margins_differ", margins=every), "small"))
    figure = _drawing(choice, by_id, name)
    blocks += [Figures([figure], legend=[(run.mark, run.label) for run in everything])] if figure else []
    caption = msg("decision.caption", goal=choice.goal)
    if choice.margin:
        caption = msg("decision.caption.margin", goal=choice.goal, margin=f"{100 * choice.margin.value:g}")
    blocks.append(Table(caption, HEADS, [Group(rows)]))
    return blocks


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section; None if there is nothing to choose from."""
    blocks: list[Block] = []
    models = list(dict.fromkeys(record.variant.model for record in records))
    for place, model in enumerate(models):
        own = [record for record in records if record.variant.model == model]
        if len({record.variant for record in own}) > 1:
            everything = [run for run in runs(records) if run.record.variant.model == model]
            blocks += [Heading(model)] if len(models) > 1 else []
            blocks += _of_model(everything, own, f"pareto{place}")
    how = Text(msg("decision.how"), "small")
    return Section("decision", msg("decision.title"), [*blocks, how]) if blocks else None
