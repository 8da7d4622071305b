"""The work of the server for a task, and the minimum time that it takes."""

from collections.abc import Iterable, Sequence

from bench import format as fmt
from bench.messages.message import msg
from bench.records.record import RunRecord, TaskScore, Work
from bench.report.document import Cell, Group, Head, Table, number
from bench.report.floor import floor_s

HEADS = (
    Head(msg("head.variant")),
    Head(msg("work.items_per_s"), msg("work.items_per_s.help"), numeric=True),
    Head(msg("work.asking"), msg("work.asking.help"), numeric=True),
    Head(msg("work.floor"), msg("work.floor.help"), numeric=True),
    Head(msg("head.prompt_tokens"), msg("work.prompt_tokens.help"), numeric=True),
    Head(msg("work.unique"), msg("work.unique.help"), numeric=True),
    Head(msg("work.cached"), msg("work.cached.help"), numeric=True),
    Head(msg("work.generated"), msg("work.generated.help"), numeric=True),
    Head(msg("work.at_once"), msg("work.at_once.help"), numeric=True),
    Head(msg("work.resumed"), msg("work.resumed.help"), numeric=True),
    Head(msg("work.retried"), msg("work.retried.help"), numeric=True),
)


def _count(value: int | None, of: int = 0) -> Cell:
    """Return the cell of a number of tokens, below it its share of ``of``."""
    share = (f"{fmt.percent(value / of)}",) if value is not None and of else ()
    return Cell(fmt.MISSING if value is None else fmt.count(value), share, numeric=True)


def _cells(record: RunRecord, score: TaskScore, work: Work) -> list[Cell]:
    whole = work.duration_s > 0 and not work.resumed
    floor = floor_s(record, score)
    times = (msg("work.times", ratio=fmt.significant(work.duration_s / floor)),) if floor else ()
    return [
        number(score.n_items / work.duration_s if whole else None, fmt.significant, "items/s"),
        number(work.duration_s, fmt.seconds, "s"),
        number(floor, fmt.seconds, "s", notes=times),
        _count(work.prompt_tokens),
        _count(work.unique_tokens, work.prompt_tokens),
        _count(work.cached_tokens, work.prompt_tokens),
        _count(work.output_tokens),
        _count(work.concurrency),
        _count(work.resumed),
        _count(work.retried),
    ]


def work_table(scores: Iterable[tuple[Cell, RunRecord, TaskScore]], task: str) -> Table | None:
    """Return a task's work by run; None if no record has it.

    Args:
        scores: first cell of the row, record and score of each run.
        task: name of the task.
    """
    rows: Sequence[list[Cell]] = [
        [heading, *_cells(record, score, score.work)] for heading, record, score in scores if score.work
    ]
    return Table(msg("work.caption", task=task), HEADS, [Group(rows)]) if rows else None
