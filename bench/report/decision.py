"""Which variant of a report to use: its runs checked against constraints. Pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench import format as fmt
from bench.analysis.baseline import is_control
from bench.analysis.constraints import (
    FIGURES,
    Answer,
    Candidate,
    Decision,
    Held,
    Need,
    decide,
    figure_of,
    hold,
    longest_common,
    parse,
    worst,
)
from bench.analysis.paired import obstacle
from bench.analysis.verdict import Kind, Verdict
from bench.errors import ConfigError
from bench.messages.message import Message, Words, clauses, linked, listed, msg
from bench.records.margin import Margin
from bench.records.record import RunRecord, TaskScore
from bench.records.words import STATUS
from bench.report.recorded import recorded
from bench.report.verdicts import VERDICT, verdicts
from bench.report.view import SHOWN, Run, runs, score_of, tasks
from bench.speed.metrics import Interval

SHOW: dict[str, Callable[[float], str]] = {
    "ttft": fmt.seconds,
    "tpot": fmt.seconds,
    "decode": fmt.rate,
    "prefill": fmt.rate,
    "throughput": fmt.rate,
    "memory": fmt.size,
    "size": fmt.size,
}
GOALS = {
    "ttft": msg("goal.ttft"),
    "tpot": msg("goal.tpot"),
    "decode": msg("goal.decode"),
    "prefill": msg("goal.prefill"),
    "throughput": msg("goal.throughput"),
    "memory": msg("goal.memory"),
    "size": msg("goal.size"),
}
"""{figure: the goal in words}; a task can be a goal too."""
LOWER = ("ttft", "tpot", "memory", "size")
"""Figures for which lower is better."""
ANSWERS: dict[Kind, Answer] = {"non-inferior": "kept", "inconclusive": "unsure", "worse": "broken"}


@dataclass(frozen=True)
class OnTask:
    """What is known about a variant's accuracy on one task."""

    verdict: Verdict | None
    answer: Answer
    reason: Words
    """The task, and its verdict or why there is none."""


def _change(verdicts: Sequence[Verdict]) -> Interval | None:
    """Return the mean change over tasks, equally weighted, with independent errors."""
    if not verdicts:
        return None
    deltas = [verdict.comparison.delta for verdict in verdicts]
    middle = sum(delta.value for delta in deltas) / len(deltas)
    low, high = (
        math.hypot(*parts) / len(deltas)
        for parts in zip(*((d.value - d.low, d.high - d.value) for d in deltas), strict=True)
    )
    return Interval(median=middle, low=middle - low, high=middle + high, n=len(deltas))


def _state(score: TaskScore) -> Words:
    status = STATUS[score.status]
    if not score.reasons:
        return status
    return msg("decision.state", status=status, reasons=listed(recorded(reason) for reason in score.reasons))


def _not_measured(run: Run, task: str) -> Message:
    stages = tuple(dict.fromkeys(failure.stage for failure in run.record.failures))
    if stages:
        return msg("decision.not_measured.failed", task=task, stages=linked(stages))
    return msg("decision.not_measured", task=task)


def _on_task(run: Run, task: str, verdict: Verdict | None) -> OnTask:
    """Return what is known about a variant's accuracy on one task; without a verdict it never counts as kept."""
    if verdict:
        why: Words = msg("decision.task_verdict", task=task, verdict=VERDICT[verdict.kind])
        return OnTask(verdict, ANSWERS[verdict.kind], why)
    before, after = score_of(run.baseline, task) if run.baseline else None, run.score(task)
    if after is None:
        return OnTask(None, "not known", _not_measured(run, task))
    if before is None:
        return OnTask(None, "not known", msg("decision.bf16_not_measured", task=task))
    if before.status not in SHOWN:
        return OnTask(None, "not known", msg("decision.bf16_state", task=task, state=_state(before)))
    if after.status not in SHOWN:
        return OnTask(None, "broken", msg("decision.task_state", task=task, state=_state(after)))
    why = obstacle(before, after) or msg("decision.not_compared")
    return OnTask(None, "not known", msg("decision.task_state", task=task, state=why))


def _on_tasks(run: Run, verdicts: Mapping[tuple[str, str], Verdict]) -> list[OnTask]:
    """Return what is known about a variant's accuracy on every task that it or its baseline has.

    Empty for BF16, and if BF16 has no task.
    """
    if not run.quantized or run.baseline is None or not run.baseline.scores:
        return []
    names = tasks([run.baseline, run.record])
    return [_on_task(run, task, verdicts.get((run.record.run_id, task))) for task in names]


def _held_accuracy(need: Need, run: Run, on_tasks: Sequence[OnTask]) -> Held:
    """Check a variant against an accuracy margin."""
    if not run.quantized:
        broken = [
            msg("decision.task_state", task=score.task, state=_state(score))
            for score in run.record.scores
            if score.status not in SHOWN
        ]
        return Held(need=need, answer="kept", reason=clauses([msg("decision.is_baseline"), *broken]))
    if not on_tasks:
        return Held(need=need, answer="not known", reason=msg("decision.no_comparison"))
    return Held(
        need=need,
        answer=worst([on_task.answer for on_task in on_tasks]),
        reason=clauses(on_task.reason for on_task in on_tasks),
    )


def _given_margin(needs: Sequence[Need]) -> float | None:
    """Return the margin that is given among the needs.

    Raises:
        ConfigError: several are given.
    """
    given = [need for need in needs if need.subject == "accuracy_margin"]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(need.text for need in given)}: give one accuracy margin")
    return given[0].bound if given else None


def _need_of(margin: Margin) -> Need:
    """Return the need for a margin that the runs declare."""
    return Need(
        text=f"accuracy_margin={100 * margin.value:g}pp",
        subject="accuracy_margin",
        input_len=None,
        concurrency=None,
        relation="<=",
        bound=margin.value,
    )


def _goal(everything: Sequence[Run], text: str | None, tasks: Sequence[str]) -> Need:
    """Return the goal as a need whose bound is ignored."""
    if text is None:
        shape = longest_common([run.record for run in everything])
        text = f"decode@{shape[0]}/{shape[1]}" if shape else "size"
    try:
        return parse(f"{text}<=1", tasks)
    except ConfigError:
        known = ", ".join((*(f"{name}@30k" for name in FIGURES), "memory", "size", *tasks))
        raise ConfigError(f"goal '{text}' is not known; known: {known}") from None


def words(goal: Need) -> Message:
    """Return a goal in words."""
    best = GOALS.get(goal.subject) or msg("goal.task", task=goal.subject)
    if not goal.input_len:
        return best
    length = fmt.count(goal.input_len)
    if not goal.concurrency:
        return msg("goal.at", goal=best, length=length)
    return msg("goal.at_load", goal=best, length=length, concurrency=str(goal.concurrency))


def decision(records: Sequence[RunRecord], constraints: Sequence[str] = (), goal: str | None = None) -> Decision:
    """Return which of the runs to use.

    Args:
        records: of one model.
        constraints: as typed; without ``accuracy_margin`` among them, the margin of the runs applies.
        goal: a figure such as ``decode@30k``; by default decode speed at the longest input length that all runs have
            measured, or the size of the checkpoint if there is none.

    Raises:
        ConfigError: a constraint or the goal cannot be parsed.
    """
    everything = runs(records)
    known = tasks(records)
    needs = [parse(text, known) for text in constraints]
    wanted = _goal([run for run in everything if not is_control(run.record)], goal, known)
    judgement = verdicts(records, _given_margin(needs))
    margin = judgement.margin
    if margin and margin.origin != "given":
        needs.append(_need_of(margin))
    verdict_of = {
        (entry.run.record.run_id, entry.score.task): entry.verdict for entry in judgement.judged if entry.verdict
    }
    candidates = []
    for run in everything:
        on_tasks = _on_tasks(run, verdict_of)
        gaps = tuple(on_task.reason for on_task in on_tasks if on_task.verdict is None)
        change = None if gaps else _change([on_task.verdict for on_task in on_tasks if on_task.verdict])
        held = tuple(
            _held_accuracy(need, run, on_tasks)
            if need.subject == "accuracy_margin"
            else hold(figure_of(run.record, need), need, SHOW.get(need.subject, fmt.share))
            for need in needs
        )
        figure = figure_of(run.record, wanted)
        none = Interval(median=0.0, low=0.0, high=0.0, n=1)
        candidates.append(
            Candidate(
                run_id=run.record.run_id,
                label=run.label,
                held=held,
                goal=figure if isinstance(figure, Interval) else None,
                accuracy=change if run.quantized else none,
                gaps=gaps,
            )
        )
    return decide(words(wanted), wanted.subject, candidates, lower_is_better=wanted.subject in LOWER, margin=margin)
