"""What a task made the server do, and the least time that it can take."""

from collections.abc import Iterable, Sequence

from bench import format as fmt
from bench.records.record import RunRecord, TaskScore, Work
from bench.report.document import Cell, Group, Head, Table, number
from bench.report.floor import floor_s

HEADS = (
    Head("Variant"),
    Head("Items/s", "items / time of asking", numeric=True),
    Head("Asking", "from the first request to the last answer of this run", numeric=True),
    Head(
        "Floor", "least time of the prompts' multiplications on this device, every common beginning once", numeric=True
    ),
    Head("Prompt tokens", "of all items", numeric=True),
    Head("Unique", "prompt tokens that must be computed where every common beginning is computed once", numeric=True),
    Head("From cache", "prompt tokens that the server took from its prefix cache", numeric=True),
    Head("Generated", "tokens of all answers", numeric=True),
    Head("At once", "requests under way", numeric=True),
    Head("Resumed", "answers that an earlier run had left, not asked for again", numeric=True),
    Head("Retried", "requests that failed and were answered when sent again", numeric=True),
)


def _count(value: int | None, of: int = 0) -> Cell:
    """Return the cell of a number of tokens, below it its share of ``of``."""
    share = (f"{fmt.percent(value / of)}",) if value is not None and of else ()
    return Cell(fmt.MISSING if value is None else fmt.count(value), share, numeric=True)


def _cells(record: RunRecord, score: TaskScore, work: Work) -> list[Cell]:
    whole = work.duration_s > 0 and not work.resumed
    floor = floor_s(record, score)
    times = (f"took {fmt.significant(work.duration_s / floor)} times that",) if floor else ()
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
    """Return a task's work by run; None if no record tells it.

    Args:
        scores: first cell of the row, record and score of each run.
        task: name of the task.
    """
    rows: Sequence[list[Cell]] = [
        [heading, *_cells(record, score, score.work)] for heading, record, score in scores if score.work
    ]
    return Table(f"{task}: what the server did for it", HEADS, [Group(rows)]) if rows else None
