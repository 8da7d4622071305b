"""Records as the sections use them: labelled, and paired with their BF16 run. Pure functions."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.analysis.baseline import SpeedBaseline, baselines, is_baseline, speed_baseline
from bench.messages.message import Message, msg
from bench.records.record import RunRecord, SpeedCell, Status, TaskScore
from bench.records.words import STATUS
from bench.report.document import Cell, Mark
from bench.report.recorded import recorded
from bench.speed.figures import MeasuredCell, RecordedCell, measured_cell, recorded_cell

SHOWN: tuple[Status, ...] = ("ok", "emulated")
"""Statuses whose figures are printed."""
COLOURS = 8
"""Number of colours in ``style.css``; the first is the text's own."""
MARKERS = "os^Dv"
"""Their number is coprime to that of the colours, so 40 runs of one model all look different."""


def _by_length(figures: RecordedCell) -> tuple[int, int]:
    return figures.cell.input_len, -figures.cell.concurrency


@dataclass(frozen=True)
class Run:
    """A record and its place on the page."""

    record: RunRecord
    label: str
    """Unique among the runs of the page."""
    mark: Mark
    baseline: RunRecord | None
    """The BF16 run of the same model on the same engine; None if there is none, or this is it."""

    @property
    def quantized(self) -> bool:
        """Whether this is another variant than the baseline's."""
        return not is_baseline(self.record)

    @property
    def heading(self) -> Cell:
        """First cell of this run's row in any table."""
        return Cell(self.label, mark=self.mark)

    def measured(self) -> list[MeasuredCell]:
        """Return the cells whose figures are drawn and compared, shortest input first."""
        cells = [figures for cell in self.record.cells if (figures := measured_cell(cell))]
        return sorted(cells, key=_by_length)

    def recorded(self) -> list[RecordedCell]:
        """Return the cells whose figures are listed in tables, emulated ones among them, shortest input first."""
        cells = [figures for cell in self.record.cells if (figures := recorded_cell(cell))]
        return sorted(cells, key=_by_length)

    def speed_baseline(self) -> SpeedBaseline | None:
        """Return what this run's speeds are compared with."""
        return speed_baseline(self.record, self.baseline)

    def score(self, task: str) -> TaskScore | None:
        """Return this run's score of a task, whatever its status."""
        return score_of(self.record, task)

    def baseline_score(self, task: str) -> TaskScore | None:
        """Return the baseline's score of a task, if it has figures that may be printed."""
        score = score_of(self.baseline, task) if self.baseline else None
        return score if score and score.status in SHOWN and score.metrics else None


def score_of(record: RunRecord, task: str, *, repeat: int = 0) -> TaskScore | None:
    """Return a run's score of a task, whatever its status; ``repeat=1`` for the second time in another order."""
    return next((score for score in record.scores if score.task == task and score.repeat == repeat), None)


def _labels(records: Sequence[RunRecord]) -> list[str]:
    one_model = len({record.variant.model for record in records}) == 1
    one_engine = len({record.engine for record in records}) == 1
    names = []
    for record in records:
        name = record.variant.quant if one_model else f"{record.variant.model} {record.variant.quant}"
        names.append(name if one_engine else f"{name} on {record.engine}")
    total, seen, labels = Counter(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        labels.append(name if total[name] == 1 else f"{name} #{seen[name]}")
    return labels


def runs(records: Sequence[RunRecord]) -> tuple[Run, ...]:
    """Return the records as given, but with the runs of one model together."""
    models = list(dict.fromkeys(record.variant.model for record in records))
    ordered = sorted(records, key=lambda record: models.index(record.variant.model))
    labelled, place = [], Counter[str]()
    for record, label, baseline in zip(ordered, _labels(ordered), baselines(ordered), strict=True):
        index = place[record.variant.model]
        place[record.variant.model] += 1
        mark = Mark(index % COLOURS, MARKERS[index % len(MARKERS)])
        labelled.append(Run(record, label, mark, baseline))
    return tuple(labelled)


def cell_anchor(run: Run, cell: SpeedCell) -> str:
    """Return the id of a cell's row on the page."""
    load = f"c{cell.concurrency}" if cell.request_rate_per_s is None else f"r{cell.request_rate_per_s:g}"
    parts = (run.label, f"in{cell.input_len}-out{cell.output_len}-{load}-n{cell.n_requests}")
    return "cell-" + "-".join(re.sub(r"[^\w.]+", "-", part) for part in parts)


def tasks(records: Sequence[RunRecord]) -> list[str]:
    """Return the tasks of all records in order of first appearance."""
    return list(dict.fromkeys(score.task for record in records for score in record.scores))


def is_own(task: str) -> bool:
    """Return whether a task is one of quantbench's own small sets."""
    return task.startswith("mini-")


def status_counts(record: RunRecord) -> Counter[Status]:
    """Return the number of a run's speed cells and scores by status."""
    return Counter([*(cell.status for cell in record.cells), *(score.status for score in record.scores)])


def reasons_of(everything: Sequence[Run], results: Callable[[Run], Iterable[SpeedCell | TaskScore]]) -> list[Message]:
    """Return why results with figures are not plainly ``ok``: each reason once, with the runs that it applies to."""
    labels: dict[tuple[Status, str], dict[str, None]] = {}
    for run in everything:
        for result in results(run):
            for reason in result.reasons if result.status in SHOWN else ():
                labels.setdefault((result.status, reason), {})[run.label] = None
    return [
        msg("reason.of_runs", status=STATUS[status], reason=recorded(reason), runs=", ".join(names))
        for (status, reason), names in labels.items()
    ]
