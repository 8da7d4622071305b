"""Records as the sections look at them: labelled, paired with their BF16 run, item by item. Pure functions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.record import RunRecord, SpeedCell, Status, TaskScore
from bench.report.document import Cell, Mark
from bench.speed.metrics import CellSummary, summarize

SHOWN: tuple[Status, ...] = ("ok", "emulated")
"""Statuses whose figures are printed."""
BASELINE = "bf16"
"""Name of the quantization that the others are compared with."""
BESIDE = "-baseline"
"""How the run ids of baselines end that were served beside another run."""
COLOURS = 8
"""Colours in ``style.css``; the first is the text's own."""
MARKERS = "os^Dv"
"""Their number shares no factor with that of the colours, so that 40 runs of one model are drawn differently."""


@dataclass(frozen=True)
class Run:
    """A record and its place on the page."""

    record: RunRecord
    label: str
    """Tells it from every other run on the page."""
    mark: Mark
    baseline: RunRecord | None
    """The BF16 run of the same model on the same engine; None if there is none, or this is it."""

    @property
    def quantized(self) -> bool:
        """Whether this is another variant than the baseline's."""
        return self.record.variant.quant != BASELINE

    @property
    def heading(self) -> Cell:
        """First cell of this run's row in any table."""
        return Cell(self.label, mark=self.mark)

    def measured(self) -> list[tuple[SpeedCell, CellSummary]]:
        """Return the cells whose figures may be printed, shortest input first."""
        pairs = [(cell, summarize(cell)) for cell in self.record.cells]
        shown = [(cell, summary) for cell, summary in pairs if summary is not None]
        return sorted(shown, key=lambda pair: (pair[0].input_len, -pair[0].concurrency))

    def score(self, task: str) -> TaskScore | None:
        """Return this run's score of a task, whatever its status."""
        return next((score for score in self.record.scores if score.task == task and not score.repeat), None)

    def baseline_score(self, task: str) -> TaskScore | None:
        """Return the baseline's score of a task, if it has figures that may be printed."""
        scores = self.baseline.scores if self.baseline else ()
        shown = (score for score in scores if score.status in SHOWN and score.metrics and not score.repeat)
        return next((score for score in shown if score.task == task), None)


def _labels(records: Sequence[RunRecord]) -> list[str]:
    one_model = len({record.variant.model for record in records}) == 1
    names = [r.variant.quant if one_model else f"{r.variant.model} {r.variant.quant}" for r in records]
    total, seen, labels = Counter(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        labels.append(name if total[name] == 1 else f"{name} #{seen[name]}")
    return labels


def runs(records: Sequence[RunRecord]) -> tuple[Run, ...]:
    """Return the records as given, but with the runs of one model together."""
    models = list(dict.fromkeys(record.variant.model for record in records))
    ordered = sorted(records, key=lambda record: models.index(record.variant.model))
    baselines: dict[tuple[str, str], RunRecord] = {}
    # A run of its own has scores too; a baseline that was served beside another run has cells only.
    for record in sorted(ordered, key=lambda record: record.run_id.endswith(BESIDE)):
        if record.variant.quant == BASELINE:
            baselines.setdefault((record.variant.model, record.engine), record)
    found, place = [], Counter[str]()
    for record, label in zip(ordered, _labels(ordered), strict=True):
        baseline = baselines.get((record.variant.model, record.engine))
        index = place[record.variant.model]
        place[record.variant.model] += 1
        mark = Mark(index % COLOURS, MARKERS[index % len(MARKERS)])
        found.append(Run(record, label, mark, None if baseline is record else baseline))
    return tuple(found)


def with_baselines(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records and, after each whose baseline was served beside it, one of that baseline's cells alone."""
    found: list[RunRecord] = []
    for record in records:
        found.append(record)
        if record.control is not None:
            control = record.control
            baseline: dict[str, object] = {
                "run_id": f"{record.run_id}{BESIDE}",
                "variant": control.variant,
                "checkpoint": control.checkpoint,
                "engine_info": control.engine_info,
                "server": control.server,
                "cells": control.cells,
                "control": None,
                "scores": (),
                "failures": (),
            }
            found.append(record.model_copy(update=baseline))
    return found


def tasks(records: Sequence[RunRecord]) -> list[str]:
    """Return the tasks of all records in order of first appearance."""
    return list(dict.fromkeys(score.task for record in records for score in record.scores))


def is_own(task: str) -> bool:
    """Tell whether a task is one of quantbench's own small sets."""
    return task.startswith("mini-")


def status_counts(record: RunRecord) -> Counter[Status]:
    """Return how many of a run's speed cells and scores have which status."""
    return Counter([*(cell.status for cell in record.cells), *(score.status for score in record.scores)])


def reasons_of(everything: Sequence[Run], results: Callable[[Run], Iterable[SpeedCell | TaskScore]]) -> list[str]:
    """Return why results with figures are not plainly ``ok``: each reason once, with the runs it holds for."""
    labels: dict[str, dict[str, None]] = {}
    for run in everything:
        for result in results(run):
            for reason in result.reasons if result.status in SHOWN else ():
                labels.setdefault(f"{result.status}: {reason}", {})[run.label] = None
    return [f"{reason} ({', '.join(names)})" for reason, names in labels.items()]


def item_values(score: TaskScore) -> "pd.Series[float]":
    """Return the main metric of every item, indexed by what makes it the same item in another run.

    The main metric is the first that lm-eval lists. Empty if the items do not carry it.
    """
    metric = score.metrics[0].name.partition(",")[0] if score.metrics else ""
    rows = [
        (item.task, item.doc_id, item.doc_hash, item.prompt_hash, item.metrics[metric])
        for item in score.items
        if metric in item.metrics
    ]
    names = ["subject", "doc_id", "doc_hash", "prompt_hash", "value"]
    values = pd.DataFrame(rows, columns=names).set_index(names[:-1])["value"].astype(float)
    # lm-eval lists an item once per answer filter; the main metric belongs to the first.
    return values[~values.index.duplicated()]


@dataclass(frozen=True)
class Flips:
    """Items on which two runs differ."""

    gained: int
    lost: int
    paired: int
    """Items that both runs have, with the same document and the same prompt."""


def flips(baseline: TaskScore, score: TaskScore) -> Flips:
    """Return on how many of the items that both have ``score`` did better and worse than ``baseline``."""
    both = pd.concat([item_values(baseline), item_values(score)], axis=1, join="inner", keys=["before", "after"])
    change = both["after"] - both["before"]
    return Flips(int((change > 0).sum()), int((change < 0).sum()), len(both))
