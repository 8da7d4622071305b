"""Which variant to use: the recommendation, one row a variant with its reason, and speed or size against accuracy."""

from collections.abc import Sequence

from bench import format as fmt
from bench.analysis.constraints import Answer, Candidate, Decision
from bench.messages.message import Message, clauses, msg
from bench.records.margin import in_points
from bench.records.record import RunRecord
from bench.report.cells import points, to
from bench.report.decision import SHOW, decision
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Heading, Section, Table, Text
from bench.report.plots.pareto import Placed, pareto
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


def _goal_cell(found: Decision, one: Candidate) -> Cell:
    if one.goal is None:
        return Cell(msg("decision.not_known"), numeric=True)
    show = SHOW.get(found.subject, fmt.share)
    notes = () if one.goal.low == one.goal.high else (fmt.between(show(one.goal.low), show(one.goal.high)),)
    return Cell(show(one.goal.median), notes, repr(one.goal.median), numeric=True)


def _accuracy_cell(one: Candidate, run: Run) -> Cell:
    if not run.quantized:
        return Cell(msg("decision.baseline"), numeric=True)
    if one.accuracy is None:
        return Cell(msg("decision.not_complete") if one.gaps else msg("decision.not_known"), one.gaps, numeric=True)
    change = one.accuracy
    width = change.high - change.low
    low, high = points(change.low, width), points(change.high, width)
    return Cell(f"{points(change.median, width)} pp", (to(low, high),), repr(change.median), numeric=True)


def _row(found: Decision, one: Candidate, run: Run) -> list[Cell]:
    best = found.recommended is not None and one.run_id == found.recommended.run_id
    why = clauses(held.reason for held in one.held) if one.held else msg("decision.no_accuracy")
    place = PLACES[one.standing if found.margin else "not known"]
    return [
        run.heading,
        Cell(msg("decision.recommended") if best else place),
        _goal_cell(found, one),
        _accuracy_cell(one, run),
        Cell(msg("word.yes") if one.run_id in found.front else msg("word.no")),
        Cell(why),
    ]


def _drawing(found: Decision, by_id: dict[str, Run], name: str) -> Figure | None:
    """Return the goal against accuracy; None where fewer than two variants have both."""
    placed = [
        Placed(by_id[one.run_id].label, by_id[one.run_id].mark, one.goal, one.accuracy, one.run_id in found.front)
        for one in (*found.ranked, *found.fallen)
        if one.goal and one.accuracy
    ]
    if len(placed) < 2:
        return None
    caption = msg("pareto.caption.left") if found.lower_is_better else msg("pareto.caption.right")
    changes = "; ".join(f"{one.label} {100 * one.y.median:+.1f} pp" for one in placed)
    drawn = pareto(
        placed,
        name=name,
        description=msg("pareto.description", goal=found.goal, changes=changes),
        xlabel=found.goal,
        show=SHOW.get(found.subject, fmt.share),
    )
    return Figure(drawn, caption, title=msg("pareto.title"))


def _lead(found: Decision, by_id: dict[str, Run]) -> Message:
    if found.margin is None:
        return msg("decision.nothing_measured")
    best = found.recommended
    if best is None:
        return msg("decision.none")
    unsure = [one.label for one in (*found.ranked, *found.fallen) if one.standing in ("unsure", "not known")]
    if unsure and not by_id[best.run_id].quantized:
        return msg("decision.only_baseline", label=best.label, others=", ".join(unsure))
    if best.standing == "kept":
        return msg("decision.use", label=best.label, goal=found.goal)
    return msg("decision.best_of_unsure", label=best.label, goal=found.goal)


def _of_model(everything: Sequence[Run], records: Sequence[RunRecord], name: str) -> list[Block]:
    found = decision(records)
    by_id = {run.record.run_id: run for run in everything}
    rows = [_row(found, one, by_id[one.run_id]) for one in (*found.ranked, *found.fallen)]
    blocks: list[Block] = [Text(_lead(found, by_id), "lead")]
    if found.margin and len(found.margin.declared) > 1:
        every = ", ".join(map(in_points, found.margin.declared))
        blocks.append(Text(msg("decision.margins_differ", margins=every), "small"))
    drawn = _drawing(found, by_id, name)
    blocks += [Figures([drawn], legend=[(run.mark, run.label) for run in everything])] if drawn else []
    caption = msg("decision.caption", goal=found.goal)
    if found.margin:
        caption = msg("decision.caption.margin", goal=found.goal, margin=f"{100 * found.margin.value:g}")
    blocks.append(Table(caption, HEADS, [Group(rows)]))
    return blocks


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the section; None where there is nothing to choose from."""
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
