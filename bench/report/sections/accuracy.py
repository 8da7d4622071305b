"""Scores of every task: charts, settings, problems, work of the server, and scores by subject."""

from collections.abc import Sequence
from dataclasses import replace

from bench import format as fmt
from bench.analysis.paired import item_values
from bench.messages.message import Words, clauses, linked, listed, msg, sentences
from bench.records.record import Mode, RunRecord, TaskScore
from bench.records.words import PROBLEM, PROBLEM_SENTENCE
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
from bench.report.recorded import recorded
from bench.report.view import SHOWN, Run, is_own, reasons_of, runs, score_of, tasks
from bench.report.work_table import work_table

ORDER = 30


def _figure(everything: Sequence[Run], task: str, name: str) -> Figure | None:
    """Return the task's main metric by variant; None if no run has it."""
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
    caption = msg("accuracy.figure", task=task, metric=metric_name)
    return Figure(dots(series, name=name, description=caption, xlabel=metric_name), caption)


def _scores_of(everything: Sequence[Run], task: str) -> list[tuple[Cell, Run, TaskScore]]:
    """Return a task's scores with the first cell of their rows, each repeat after the first."""
    scores = []
    for run in everything:
        if score := run.score(task):
            scores.append((run.heading, run, score))
        if again := score_of(run.record, task, repeat=1):
            scores.append((replace(run.heading, text=msg("verdict.again", label=run.label)), run, again))
    return scores


def _problems(score: TaskScore) -> Words:
    """Return the counts of items with problems, e.g. ``3 truncated``; empty if there are none."""
    counts = [(words, score.counts.get(problem, 0)) for problem, words in PROBLEM.items()]
    phrases = [msg("problem.count", times=fmt.count(count), problem=words) for words, count in counts if count]
    return listed(phrases) if phrases else ""


def sampling_words(how: Mode) -> Words:
    """Return sampling settings in words."""
    if how.temperature == 0:
        return msg("sampling.greedy")
    limits = {"top-p": how.top_p, "top-k": how.top_k, "min-p": how.min_p}
    unlimited = {"top-p": 1, "top-k": -1, "min-p": 0}
    limited = [f"{name} {value:g}" for name, value in limits.items() if value != unlimited[name]]
    return listed([msg("sampling.temperature", value=f"{how.temperature:g}"), *limited])


def _row(heading: Cell, score: TaskScore, metrics: Sequence[str], width: int) -> list[Cell]:
    start = [heading, Cell("", status=score.status)]
    problems = _problems(score)
    if score.status not in SHOWN or not score.metrics:
        of = (msg("accuracy.problems_of", problems=problems, n=score.n_items),) if problems else ()
        why = clauses(map(recorded, score.reasons)) if score.reasons else fmt.MISSING
        return [*start, Cell(why, of, span=width - len(start))]
    by_name = {metric.name: metric for metric in score.metrics}
    thinking: dict[bool | None, Words] = {None: fmt.MISSING, True: msg("word.on"), False: msg("word.off")}
    fewshot = msg("accuracy.own_fewshot") if score.num_fewshot is None else str(score.num_fewshot)
    limit = msg("word.none") if score.limit is None else msg("accuracy.per_subject", limit=fmt.count(score.limit))
    return [
        *start,
        *(metric_cell(by_name[name]) if name in by_name else number(None, fmt.share) for name in metrics),
        Cell(fmt.count(score.n_items), numeric=True),
        Cell(problems or (msg("word.none") if score.counts else fmt.MISSING)),
        Cell(fewshot, numeric=True),
        Cell(limit, numeric=True),
        Cell(msg("word.yes") if score.chat_template else msg("word.no")),
        Cell(thinking[score.thinking], (sampling_words(score.sampling),) if score.sampling else ()),
        number(score.duration_s, fmt.seconds, "s"),
    ]


def _table(scores: Sequence[tuple[Cell, Run, TaskScore]], task: str) -> Table:
    shown = [score for _, _, score in scores if score.status in SHOWN]
    metrics = list(dict.fromkeys(metric.name for score in shown for metric in score.metrics))
    heads = [
        Head(msg("head.variant")),
        Head(msg("head.status")),
        *(Head(name, msg("accuracy.metric.help"), numeric=True) for name in metrics),
        Head(msg("head.items"), msg("accuracy.items.help"), numeric=True),
        Head(msg("accuracy.problems"), msg("accuracy.problems.help")),
        Head(msg("accuracy.fewshot"), msg("accuracy.fewshot.help"), numeric=True),
        Head(msg("accuracy.limit"), msg("accuracy.limit.help"), numeric=True),
        Head(msg("accuracy.chat_template")),
        Head(msg("accuracy.thinking"), msg("accuracy.thinking.help")),
        Head(msg("accuracy.time"), msg("accuracy.time.help"), numeric=True),
    ]
    rows = [_row(heading, score, metrics, len(heads)) for heading, _, score in scores]
    versions = sorted({version for _, _, score in scores for version in score.task_versions.values()})
    caption = msg("accuracy.caption", task=task)
    if versions:
        caption = msg("accuracy.caption.version", task=task, versions=linked(versions))
    return Table(caption, heads, [Group(rows)])


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
    heads = [Head(msg("head.subject")), Head(msg("head.items"), numeric=True)]
    heads += [Head(label, numeric=True) for label in columns]
    rows = []
    for subject in subjects:
        values = [by_subject.get(subject, []) for by_subject in columns.values()]
        means = [number(sum(results) / len(results) if results else None, fmt.share) for results in values]
        rows.append([Cell(subject), Cell(fmt.count(max(map(len, values))), numeric=True), *means])
    table = Table(msg("accuracy.by_subject", task=task), heads, [Group(rows)])
    return Details(msg("accuracy.subjects", n=len(rows), task=task), [table])


def _task(everything: Sequence[Run], task: str) -> list[Block]:
    """Return all blocks of one task."""
    scores = _scores_of(everything, task)
    reasons = reasons_of(everything, lambda run: [score for score in run.record.scores if score.task == task])
    blocks: list[Block] = [Heading(task), _table(scores, task)]
    blocks += [Bullets(reasons)] if reasons else []
    meanings = [
        sentence
        for problem, sentence in PROBLEM_SENTENCE.items()
        if any(score.counts.get(problem) for _, _, score in scores)
    ]
    blocks += [Text(sentences(meanings), "small")] if meanings else []
    work = work_table(((heading, run.record, score) for heading, run, score in scores), task)
    subjects = _subjects(everything, task)
    return [*blocks, *([work] if work else []), *([subjects] if subjects else [])]


def section(records: Sequence[RunRecord]) -> Section | None:
    """Return the accuracy section; None if no run planned a task."""
    everything, names = runs(records), tasks(records)
    if not names:
        return None
    own = Note(msg("accuracy.own.title"), msg("accuracy.own"))
    blocks: list[Block] = [own] if any(map(is_own, names)) else []
    by_task = [_figure(everything, task, f"accuracy{index}") for index, task in enumerate(names)]
    figures = [figure for figure in by_task if figure]
    if figures:
        blocks += [Figures(figures), Text(msg("accuracy.how"), "small")]
    for task in names:
        blocks += _task(everything, task)
    return Section("accuracy", msg("accuracy.title"), blocks)
