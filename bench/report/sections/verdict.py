"""Worse than BF16 or not: every variant and task, drawn and in figures, and how much BF16 differs from itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from bench import format as fmt
from bench.analysis.paired import SCORED, Comparison
from bench.analysis.verdict import Verdict
from bench.records.record import RunRecord, TaskScore
from bench.report.cells import delta_cell, flips_cell, kl_cell, p_cell, p_text, points, recovery_cell
from bench.report.document import Block, Cell, Figure, Figures, Group, Head, Note, Section, Table, Text
from bench.report.plots.forest import ForestRow, forest
from bench.report.verdicts import VERDICT_MEANING, Judged, NoiseFloor, judged, noise_floors
from bench.report.view import score_of, tasks

ORDER = 16

HEADS = (
    Head("Variant"),
    Head("Verdict", "all comparisons of this report taken into account, and why"),
    Head("Change", "score minus BF16's over the same items, percentage points; 95 % interval", numeric=True),
    Head("Recovery", "score as a share of BF16's; 95 % interval", numeric=True),
    Head("Flips", "items gained and lost; below it the items compared and the share that flips", numeric=True),
    Head(
        "McNemar p",
        "exact, of gained against lost; below it that of a loss, corrected for all comparisons of this report (Holm)",
        numeric=True,
    ),
    Head("Choice-KL", "mean divergence over an item's choices, nats; 95 % interval", numeric=True),
    Head("Visible loss", "smallest true loss that these items show with 80 % probability", numeric=True),
)
HOW = (
    "Each variant answered the items that BF16 answered on the same engine, so what counts is the change on each item. "
    "Worse: the loss is more than chance allows, over all comparisons of this report. Non-inferior: any loss is surely "
    "inside the margin, which was set beforehand. Inconclusive: neither is proven, which is not the same as equal. "
    "Recovery, McNemar's test and choice-KL describe; they decide nothing."
)
NO_FLOOR = (
    "BF16 was not asked twice, so nothing here shows how many answers change by chance alone: add "
    "accuracy.noise_floor=true to the run of BF16 to see it."
)
FLOOR = (
    "Rows of BF16 again are the noise floor: BF16 asked the same a second time in another order. So many items flip by "
    "rounding and ties alone, without any quantization."
)


def _figures_of(found: Comparison) -> list[Cell]:
    """Return change, recovery and flips."""
    return [delta_cell(found.delta), recovery_cell(found.recovery), flips_cell(found)]


def _unpaired(found: Comparison) -> tuple[str, ...]:
    return (f"{fmt.plural(found.unpaired, 'item')} that only one of the two has",) if found.unpaired else ()


def _refused(score: TaskScore, obstacle: str) -> Cell:
    """Return why a score is not compared."""
    notes = () if score.status in SCORED else score.reasons
    return Cell(f"not compared: {obstacle}", notes, span=len(HEADS) - 1)


def _row(one: Judged) -> list[Cell]:
    if one.verdict is None:
        return [one.run.heading, _refused(one.score, one.obstacle)]
    found = one.verdict.comparison
    return [
        one.run.heading,
        Cell("", (one.verdict.reason, *_unpaired(found)), verdict=one.verdict.kind),
        *_figures_of(found),
        replace(p_cell(found.mcnemar_p), notes=(f"loss, Holm {p_text(one.verdict.p_worse_holm)}",)),
        kl_cell(found.choice_kl_nats),
        Cell(f"{points(one.verdict.mde, signed=False)} pp", exact=f"{one.verdict.mde!r} of 1", numeric=True),
    ]


def _floor_row(one: NoiseFloor) -> list[Cell]:
    heading = replace(one.run.heading, text=f"{one.run.label} again")
    if one.comparison is None:
        return [heading, _refused(one.score, one.obstacle)]
    return [
        heading,
        Cell("noise floor", ("the same asked a second time, in another order", *_unpaired(one.comparison))),
        *_figures_of(one.comparison),
        p_cell(one.comparison.mcnemar_p),
        kl_cell(one.comparison.choice_kl_nats),
        Cell(numeric=True),
    ]


def _figure(
    found: Sequence[Judged], floors: Sequence[NoiseFloor], margin: float | None, task: str, name: str
) -> Figure | None:
    """Return one task's differences with their intervals; None if nothing of it is compared."""
    rows = [
        ForestRow(one.run.label, one.run.mark, verdict.comparison.delta, verdict.simultaneous, verdict.kind)
        for one in found
        if (verdict := one.verdict) and one.score.task == task
    ]
    rows += [
        ForestRow(f"{one.run.label} again", one.run.mark, one.comparison.delta, words="noise floor", hollow=True)
        for one in floors
        if one.comparison and one.score.task == task
    ]
    if not rows:
        return None
    told = "; ".join(f"{row.label}: {100 * row.delta.value:+.1f} pp, {row.words}" for row in rows)
    drawn = forest(
        rows,
        name=name,
        description=f"{task}. {told}.",
        xlabel="change against BF16, percentage points",
        margin=margin,
    )
    return Figure(drawn, f"{task}: change of the score against BF16.", title=task)


def _scale(margin: float | None) -> str:
    """Return what the lines of a drawing are."""
    text = "Thick: 95 % interval. Thin: the interval that holds for all comparisons of this report at once"
    if margin is None:
        return f"{text}."
    return (
        f"{text}: non-inferior where it stays to the right of the band's left edge, the margin of {100 * margin:g} pp."
    )


def _lead(verdicts: Sequence[Verdict], margins: Sequence[float]) -> str:
    """Return how many verdicts there are of each kind."""
    kinds = Counter(verdict.kind for verdict in verdicts)
    told = [f"{kinds[kind]} {kind}" for kind in VERDICT_MEANING if kinds[kind]]
    margin = " and ".join(f"{100 * margin:g} pp" for margin in margins)
    return f"{fmt.plural(len(verdicts), 'comparison')} with BF16, at a margin of {margin}: {', '.join(told)}."


def _too_few(most: Verdict) -> Note:
    """Return what to do where nothing could be told, even from the comparison with the most items."""
    return Note(
        "Nothing can be told from these items",
        f"Inconclusive does not mean equal. {most.comparison.task} has {fmt.plural(most.comparison.n, 'item')}, on "
        f"which a loss below {points(most.mde, signed=False)} pp is easily missed. If answers change as often as here, "
        f"about {fmt.count(most.items_needed)} items would show a loss of {100 * most.margin:g} pp.",
    )


def _guessing(one: Judged) -> str:
    """Return the sentence that says that BF16 may be guessing; empty if it is right more often than that."""
    before = score_of(one.run.baseline, one.score.task) if one.run.baseline else None
    if before is None or not before.items or not all(item.logprobs for item in before.items):
        return ""
    metric, chance = before.metrics[0], fmean(1 / len(item.logprobs) for item in before.items)
    if metric.value - 2 * (metric.stderr or 0.0) > chance:
        return ""
    return (
        f"On {before.task} {one.run.record.variant.model} in BF16 is right {fmt.percent(metric.value)} of the time, "
        f"not surely more than by guessing ({fmt.percent(chance)}): what guesses has nothing to lose, "
        "whatever the verdict."
    )


def _table(found: Sequence[Judged], floors: Sequence[NoiseFloor], names: Sequence[str]) -> Table:
    groups = []
    for task in names:
        rows = [_row(one) for one in found if one.score.task == task]
        rows += [_floor_row(one) for one in floors if one.score.task == task]
        if rows:
            groups.append(Group(rows, task))
    return Table("Every variant beside BF16, item by item", HEADS, groups)


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the verdicts; None if there is nothing to compare."""
    found, floors, names = judged(records), noise_floors(records), tasks(records)
    if not found and not floors:
        return None
    verdicts = [one.verdict for one in found if one.verdict]
    margins = list(dict.fromkeys(verdict.margin for verdict in verdicts))
    margin = margins[0] if len(margins) == 1 else None
    blocks: list[Block] = [Text(_lead(verdicts, margins), "lead")] if verdicts else []
    if verdicts and all(verdict.kind == "inconclusive" for verdict in verdicts):
        blocks.append(_too_few(max(verdicts, key=lambda verdict: verdict.comparison.n)))
    guessing = dict.fromkeys(text for one in found if one.verdict and (text := _guessing(one)))
    blocks += [Note("BF16 may be guessing", " ".join(guessing))] if guessing else []
    drawn = [_figure(found, floors, margin, task, f"verdict{index}") for index, task in enumerate(names)]
    figures = [figure for figure in drawn if figure]
    if figures:
        blocks += [Figures(figures), Text(_scale(margin), "small")]
    blocks += [_table(found, floors, names), Text(HOW, "small"), Text(FLOOR if floors else NO_FLOOR, "small")]
    return Section("verdict", "Accuracy verdict", blocks)
