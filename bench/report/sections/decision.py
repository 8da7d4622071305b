"""Which variant to use: the recommendation, one row a variant with its reason, and speed or size against accuracy."""

from collections.abc import Sequence

from bench import format as fmt
from bench.analysis.constraints import Answer, Candidate, Decision
from bench.records.margin import in_points
from bench.records.record import RunRecord
from bench.report.cells import points
from bench.report.decision import SHOW, decision
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Heading, Section, Table, Text
from bench.report.plots.pareto import Placed, pareto
from bench.report.view import Run, runs

ORDER = 5

HEADS = (
    Head("Variant"),
    Head("Place"),
    Head("Goal", "what is to be as good as possible", numeric=True),
    Head("Accuracy", "mean change against BF16 over all tasks, percentage points; 95 % interval", numeric=True),
    Head("Front", "no other variant is at least as good in goal and accuracy, and better in one"),
    Head("Why"),
)
HOW = (
    "A variant is recommended if it surely loses no more accuracy than the margin on any task; among those, the one "
    "that is best at the goal. A failed or invalid task rules a variant out; a task that was not measured leaves it "
    "not known. Other needs, such as memory<=24GB or ttft@30k<=2s, are put with quantbench decide."
)
PLACES: dict[Answer, str] = {
    "kept": "may be used",
    "unsure": "cannot be told yet",
    "not known": "not known",
    "broken": "not recommended",
}


def _goal_cell(found: Decision, one: Candidate) -> Cell:
    if one.goal is None:
        return Cell("not known", numeric=True)
    show = SHOW.get(found.subject, fmt.share)
    notes = () if one.goal.low == one.goal.high else (fmt.between(show(one.goal.low), show(one.goal.high)),)
    return Cell(show(one.goal.median), notes, repr(one.goal.median), numeric=True)


def _accuracy_cell(one: Candidate, run: Run) -> Cell:
    if not run.quantized:
        return Cell("baseline", numeric=True)
    if one.accuracy is None:
        return Cell("not complete" if one.gaps else "not known", one.gaps, numeric=True)
    change = one.accuracy
    width = change.high - change.low
    low, high = points(change.low, width), points(change.high, width)
    return Cell(f"{points(change.median, width)} pp", (f"{low} to {high}",), repr(change.median), numeric=True)


def _row(found: Decision, one: Candidate, run: Run) -> list[Cell]:
    best = found.recommended is not None and one.run_id == found.recommended.run_id
    why = "; ".join(held.reason for held in one.held) or "no accuracy was measured"
    return [
        run.heading,
        Cell("recommended" if best else PLACES[one.standing] if found.margin else "not known"),
        _goal_cell(found, one),
        _accuracy_cell(one, run),
        Cell("yes" if one.run_id in found.front else "no"),
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
    label = found.goal[0].upper() + found.goal[1:]
    better = "left" if found.lower_is_better else "right"
    caption = f"Further up is more accurate, further {better} is better at the goal. Ringed: the front."
    told = "; ".join(f"{one.label} {100 * one.y.median:+.1f} pp" for one in placed)
    drawn = pareto(
        placed,
        name=name,
        description=f"{label} against accuracy: {told}",
        xlabel=found.goal,
        show=SHOW.get(found.subject, fmt.share),
    )
    return Figure(drawn, caption, title="Goal against accuracy")


def _lead(found: Decision, by_id: dict[str, Run]) -> str:
    if found.margin is None:
        return "No accuracy was measured, so no variant is recommended."
    best = found.recommended
    if best is None:
        return "No variant can be recommended from what was measured."
    unsure = [one.label for one in (*found.ranked, *found.fallen) if one.standing in ("unsure", "not known")]
    if unsure and not by_id[best.run_id].quantized:
        return f"Nothing but {best.label} surely stays within the margin; it cannot be told yet of {', '.join(unsure)}."
    if best.standing == "kept":
        return f"Use {best.label}: {found.goal} of those that surely stay within the margin."
    return f"{best.label} has the {found.goal}, but nothing surely stays within the margin."


def _of_model(everything: Sequence[Run], records: Sequence[RunRecord], name: str) -> list[Block]:
    found = decision(records)
    by_id = {run.record.run_id: run for run in everything}
    rows = [_row(found, one, by_id[one.run_id]) for one in (*found.ranked, *found.fallen)]
    blocks: list[Block] = [Text(_lead(found, by_id), "lead")]
    if found.margin and len(found.margin.declared) > 1:
        every = ", ".join(map(in_points, found.margin.declared))
        blocks.append(
            Text(f"The runs declare different accuracy margins ({every}); the strictest applies here.", "small")
        )
    drawn = _drawing(found, by_id, name)
    blocks += [Figures([drawn], legend=[(run.mark, run.label) for run in everything])] if drawn else []
    margin_words = f", at a margin of {in_points(found.margin.value)}" if found.margin else ""
    blocks.append(Table(f"Goal: {found.goal}{margin_words}", HEADS, [Group(rows)]))
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
    return Section("decision", "Which variant", [*blocks, Text(HOW, "small")]) if blocks else None
