"""Scores of every task: drawn, in full, item flips against BF16, and by subject."""

from collections.abc import Sequence

import pandas as pd

from bench.record import RunRecord, TaskScore
from bench.report import format as fmt
from bench.report.document import (
    Block,
    Bullets,
    Cell,
    Details,
    Figure,
    Figures,
    Group,
    Head,
    Heading,
    Note,
    Section,
    Table,
    Text,
    metric_cell,
    number,
)
from bench.report.plots import Point, Series, dots
from bench.report.view import SHOWN, Run, flips, is_own, item_values, reasons_of, runs, tasks

ORDER = 30

OWN = (
    "Tasks named mini-… are small sets of quantbench's own, in the form of MMLU, C-Eval and IFEval. They show that a "
    "variant still works and how often its answers change; their scores are not comparable with those of MMLU, "
    "C-Eval or IFEval, here or elsewhere."
)
COUNTS = {
    "truncated": "answers cut off at the token limit",
    "empty": "answers without any text",
    "over_long": "items longer than the model's context",
}


def _figure(everything: Sequence[Run], task: str, name: str) -> Figure | None:
    """Return the task's main metric by variant; None if nobody has it."""
    series, metric_name = [], ""
    for row, run in enumerate(everything):
        score = run.score(task)
        points: tuple[Point, ...] = ()
        if score and score.status in SHOWN and score.metrics:
            metric = score.metrics[0]
            spread = metric.stderr or 0.0
            points = (Point(row, metric.value, metric.value - spread, metric.value + spread),)
            metric_name = metric.name
        series.append(Series(run.label, run.mark, points))
    if not metric_name:
        return None
    caption = f"{task}: {metric_name} by variant, bars ± one standard error."
    return Figure(dots(series, name=name, description=caption, xlabel=metric_name), caption)


def _shown_metrics(everything: Sequence[Run], task: str) -> list[str]:
    scores = [run.score(task) for run in everything]
    return list(dict.fromkeys(m.name for score in scores if score and score.status in SHOWN for m in score.metrics))


def _change_cells(run: Run, score: TaskScore) -> list[Cell]:
    """Return difference to BF16, recovery, and flips; dashes without a baseline."""
    before = run.baseline_score(score.task)
    if before is None:
        return [number(None, fmt.points)] * 3
    now, then = score.metrics[0].value, before.metrics[0].value
    flipped = flips(before, score)
    return [
        number(now - then, fmt.points, "of 1"),
        number(now / then if then else None, fmt.percent, "of 1"),
        Cell(
            f"+{flipped.gained} −{flipped.lost}",
            (f"of {fmt.count(flipped.paired)}",),
            f"{flipped.gained} gained, {flipped.lost} lost of {flipped.paired} paired items",
            numeric=True,
        )
        if flipped.paired
        else Cell("not paired", ("items differ",)),
    ]


def _row(run: Run, score: TaskScore, metrics: Sequence[str], width: int) -> list[Cell]:
    start = [run.heading, Cell("", status=score.status)]
    if score.status not in SHOWN or not score.metrics:
        return [*start, Cell("; ".join(score.reasons) or fmt.MISSING, span=width - len(start))]
    by_name = {metric.name: metric for metric in score.metrics}
    return [
        *start,
        *(metric_cell(by_name[name]) if name in by_name else number(None, fmt.share) for name in metrics),
        *_change_cells(run, score),
        Cell(fmt.count(score.n_items), numeric=True),
        Cell(" / ".join(str(score.counts.get(name, fmt.MISSING)) for name in COUNTS), numeric=True),
        Cell("task's own" if score.num_fewshot is None else str(score.num_fewshot), numeric=True),
        Cell("none" if score.limit is None else f"{fmt.count(score.limit)} per subject", numeric=True),
        Cell("yes" if score.chat_template else "no"),
        number(score.seconds, fmt.seconds, "s"),
    ]


def _table(everything: Sequence[Run], task: str) -> Table:
    metrics = _shown_metrics(everything, task)
    heads = [
        Head("Variant"),
        Head("Status"),
        *(Head(name, "as lm-eval computes it, ± one standard error", numeric=True) for name in metrics),
        Head("To BF16", "main metric minus that of the BF16 run, percentage points", numeric=True),
        Head("Recovery", "main metric as a share of the BF16 run's", numeric=True),
        Head("Flips", "items gained and lost against BF16", numeric=True),
        Head("Items", "items scored", numeric=True),
        Head("Truncated / empty / over-long", "; ".join(COUNTS.values()), numeric=True),
        Head("Few-shot", "examples before each item", numeric=True),
        Head("Limit", "items at most", numeric=True),
        Head("Chat template"),
        Head("Time", "for the whole task", numeric=True),
    ]
    rows = [_row(run, score, metrics, len(heads)) for run in everything if (score := run.score(task))]
    versions = {v for run in everything if (score := run.score(task)) for v in score.task_versions.values()}
    version = f", task version {' and '.join(sorted(versions))}" if versions else ""
    return Table(f"{task}{version}: every metric, its settings and its changes against BF16", heads, [Group(rows)])


def _subjects(everything: Sequence[Run], task: str) -> Details | None:
    """Return the mean main metric by subject and variant; None for a task without subjects."""
    columns, sizes = {}, {}
    for run in everything:
        score = run.score(task)
        if score and score.status in SHOWN and score.items:
            by_subject = item_values(score).groupby(level="subject")
            columns[run.label], sizes[run.label] = by_subject.mean(), by_subject.size()
    if not columns:
        return None
    means, items = pd.DataFrame(columns), pd.DataFrame(sizes).max(axis=1)
    if len(means) < 2:
        return None
    heads = [Head("Subject"), Head("Items", numeric=True), *(Head(label, numeric=True) for label in columns)]
    rows = [
        [
            Cell(str(subject)),
            Cell(fmt.count(int(items[subject])), numeric=True),
            *(number(None if pd.isna(mean) else float(mean), fmt.share) for mean in row),
        ]
        for subject, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    table = Table(f"{task}: mean of the main metric by subject", heads, [Group(rows)])
    return Details(f"{fmt.plural(len(rows), 'subject')} of {task}", [table])


def _task(everything: Sequence[Run], task: str) -> list[Block]:
    """Return everything that is said about one task."""
    reasons = reasons_of(everything, lambda run: [score for score in run.record.scores if score.task == task])
    subjects = _subjects(everything, task)
    blocks: list[Block] = [Heading(task), _table(everything, task)]
    blocks += [Bullets(reasons)] if reasons else []
    return [*blocks, subjects] if subjects else blocks


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the accuracy section; None if no run planned a task."""
    everything, names = runs(records), tasks(records)
    if not names:
        return None
    blocks: list[Block] = [Note("Our own small sets", OWN)] if any(map(is_own, names)) else []
    drawn = [_figure(everything, task, f"accuracy{index}") for index, task in enumerate(names)]
    figures = [figure for figure in drawn if figure]
    if figures:
        blocks.append(Figures(figures))
        blocks.append(
            Text(
                "A standard error describes one variant's score on its own. Variants answer the same items, so whether "
                "they differ is better judged by the items that changed (flips) than by overlapping bars.",
                "small",
            )
        )
    for task in names:
        blocks += _task(everything, task)
    return Section("accuracy", "Accuracy", blocks)
