"""Scores of every task: drawn, with their settings and problems, what they took, and by subject."""

from collections.abc import Sequence
from dataclasses import replace

from bench import format as fmt
from bench.analysis.paired import item_values
from bench.records.record import PROBLEM_MEANING, Mode, RunRecord, TaskScore
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
from bench.report.plots.base import Point, Series, dots
from bench.report.view import SHOWN, Run, is_own, reasons_of, runs, score_of, tasks
from bench.report.work_table import work_table

ORDER = 30

OWN = (
    "Tasks named mini-… are small sets of quantbench's own, in the form of MMLU, C-Eval and IFEval. They show that a "
    "variant still works and how often its answers change; their scores are not comparable with those of MMLU, "
    "C-Eval or IFEval, here or elsewhere."
)


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


def _scored(everything: Sequence[Run], task: str) -> list[tuple[Cell, Run, TaskScore]]:
    """Return a task's scores with the first cell of their rows, second times after the first."""
    found = []
    for run in everything:
        if score := run.score(task):
            found.append((run.heading, run, score))
        if again := score_of(run.record, task, repeat=1):
            found.append((replace(run.heading, text=f"{run.label} again"), run, again))
    return found


def _problems(score: TaskScore) -> str:
    """Return how many items need a look, e.g. ``3 truncated``; empty if none does."""
    counts = [(problem, score.counts.get(problem, 0)) for problem in PROBLEM_MEANING]
    return ", ".join(f"{fmt.count(count)} {problem.replace('_', '-')}" for problem, count in counts if count)


def drawn(how: Mode) -> str:
    """Return how tokens were drawn, in words."""
    if how.temperature == 0:
        return "greedy"
    limits = {"top-p": how.top_p, "top-k": how.top_k, "min-p": how.min_p}
    unlimited = {"top-p": 1, "top-k": -1, "min-p": 0}
    told = [f"{name} {value:g}" for name, value in limits.items() if value != unlimited[name]]
    return ", ".join([f"temperature {how.temperature:g}", *told])


def _row(heading: Cell, score: TaskScore, metrics: Sequence[str], width: int) -> list[Cell]:
    start = [heading, Cell("", status=score.status)]
    problems = _problems(score)
    if score.status not in SHOWN or not score.metrics:
        of = f"{problems} of {fmt.plural(score.n_items, 'item')}" if problems else ""
        told = "; ".join(score.reasons) or fmt.MISSING
        return [*start, Cell(told, (of,) if of else (), span=width - len(start))]
    by_name = {metric.name: metric for metric in score.metrics}
    thinking = {None: fmt.MISSING, True: "on", False: "off"}[score.thinking]
    return [
        *start,
        *(metric_cell(by_name[name]) if name in by_name else number(None, fmt.share) for name in metrics),
        Cell(fmt.count(score.n_items), numeric=True),
        Cell(problems or ("none" if score.counts else fmt.MISSING)),
        Cell("task's own" if score.num_fewshot is None else str(score.num_fewshot), numeric=True),
        Cell("none" if score.limit is None else f"{fmt.count(score.limit)} per subject", numeric=True),
        Cell("yes" if score.chat_template else "no"),
        Cell(thinking, (drawn(score.sampling),) if score.sampling else ()),
        number(score.duration_s, fmt.seconds, "s"),
    ]


def _table(found: Sequence[tuple[Cell, Run, TaskScore]], task: str) -> Table:
    shown = [score for _, _, score in found if score.status in SHOWN]
    metrics = list(dict.fromkeys(metric.name for score in shown for metric in score.metrics))
    heads = [
        Head("Variant"),
        Head("Status"),
        *(Head(name, "as lm-eval computes it, ± one standard error", numeric=True) for name in metrics),
        Head("Items", "items scored", numeric=True),
        Head("To look at", "items with a problem; what each means stands below"),
        Head("Few-shot", "examples before each item", numeric=True),
        Head("Limit", "items at most", numeric=True),
        Head("Chat template"),
        Head("Thinking", "whether the chat template lets the model reason first"),
        Head("Time", "for the whole task", numeric=True),
    ]
    rows = [_row(heading, score, metrics, len(heads)) for heading, _, score in found]
    versions = sorted({version for _, _, score in found for version in score.task_versions.values()})
    version = f", task version {' and '.join(versions)}" if versions else ""
    return Table(f"{task}{version}: every metric and its settings", heads, [Group(rows)])


def _subjects(everything: Sequence[Run], task: str) -> Details | None:
    """Return the mean main metric by subject and variant; None for a task without subjects."""
    columns: dict[str, dict[str, list[float]]] = {}
    for run in everything:
        score = run.score(task)
        if score and score.status in SHOWN and score.items:
            by_subject = columns.setdefault(run.label, {})
            for key, value in item_values(score).items():
                by_subject.setdefault(key.task, []).append(value)
    subjects = sorted({subject for by_subject in columns.values() for subject in by_subject})
    if len(subjects) < 2:
        return None
    heads = [Head("Subject"), Head("Items", numeric=True), *(Head(label, numeric=True) for label in columns)]
    rows = []
    for subject in subjects:
        values = [by_subject.get(subject, []) for by_subject in columns.values()]
        means = [number(sum(some) / len(some) if some else None, fmt.share) for some in values]
        rows.append([Cell(subject), Cell(fmt.count(max(map(len, values))), numeric=True), *means])
    table = Table(f"{task}: mean of the main metric by subject", heads, [Group(rows)])
    return Details(f"{fmt.plural(len(rows), 'subject')} of {task}", [table])


def _task(everything: Sequence[Run], task: str) -> list[Block]:
    """Return everything that is said about one task."""
    found = _scored(everything, task)
    reasons = reasons_of(everything, lambda run: [score for score in run.record.scores if score.task == task])
    blocks: list[Block] = [Heading(task), _table(found, task)]
    blocks += [Bullets(reasons)] if reasons else []
    told = [
        f"{problem.replace('_', '-').capitalize()}: {meaning}."
        for problem, meaning in PROBLEM_MEANING.items()
        if any(score.counts.get(problem) for _, _, score in found)
    ]
    blocks += [Text(" ".join(told), "small")] if told else []
    work = work_table(((heading, run.record, score) for heading, run, score in found), task)
    subjects = _subjects(everything, task)
    return [*blocks, *([work] if work else []), *([subjects] if subjects else [])]


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
                "they differ is told by the items that changed (accuracy verdict), not by overlapping bars.",
                "small",
            )
        )
    for task in names:
        blocks += _task(everything, task)
    return Section("accuracy", "Accuracy", blocks)
