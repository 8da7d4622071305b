"""Which of a report's variants is worth using: its runs held to needs. Pure functions."""

import math
from collections.abc import Callable, Sequence

from bench.analysis.decide import (
    FIGURES,
    Candidate,
    Decision,
    Held,
    Need,
    decide,
    figure_of,
    hold,
    longest_common,
    parse,
)
from bench.analysis.verdict import Verdict, judge
from bench.errors import ConfigError
from bench.margin import Margin, applied
from bench.record import RunRecord
from bench.report import format as fmt
from bench.report.verdicts import judged
from bench.report.view import BESIDE, Run, runs
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
LOWER = ("ttft", "tpot", "memory", "size")
"""Figures of which the lower is the better."""


def _change(verdicts: Sequence[Verdict]) -> Interval | None:
    """Return the mean change over tasks, each counting alike; errors of tasks do not depend on each other."""
    if not verdicts:
        return None
    deltas = [verdict.comparison.delta for verdict in verdicts]
    middle = sum(delta.value for delta in deltas) / len(deltas)
    low, high = (
        math.hypot(*parts) / len(deltas)
        for parts in zip(*((d.value - d.low, d.high - d.value) for d in deltas), strict=True)
    )
    return Interval(median=middle, low=middle - low, high=middle + high, n=len(deltas))


def _held_accuracy(need: Need, run: Run, verdicts: Sequence[Verdict]) -> Held:
    """Hold a variant's verdicts, made anew with the margin that was asked for."""
    if not run.quantized:
        return Held(need=need, answer="kept", reason="it is the baseline")
    if not verdicts:
        return Held(need=need, answer="not known", reason="no task is compared with BF16")
    kinds = {verdict.kind for verdict in verdicts}
    told = "; ".join(f"{verdict.comparison.task} {verdict.kind}" for verdict in verdicts)
    answer = "broken" if "worse" in kinds else "unsure" if "inconclusive" in kinds else "kept"
    return Held.model_validate({"need": need, "answer": answer, "reason": told})


def _margin(records: Sequence[RunRecord], needs: Sequence[Need]) -> Margin | None:
    """Return the margin that applies to runs that are judged together; None without scores and without one given.

    Raises:
        ConfigError: several are given.
    """
    given = [need for need in needs if need.subject == "accuracy_margin"]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(need.text for need in given)}: give one accuracy margin")
    scored = [record for record in records if record.scores]
    if not given and not scored:
        return None
    compared = {one.run.record.run_id: one.run.record for one in judged(records)}
    return applied(list(compared.values()) or scored, given[0].bound if given else None)


def _need_of(margin: Margin) -> Need:
    """Return the need that follows from a margin that the runs declare."""
    return Need(
        text=f"accuracy_margin={100 * margin.value:g}pp",
        subject="accuracy_margin",
        input_len=None,
        concurrency=None,
        relation="<=",
        bound=margin.value,
    )


def _goal(everything: Sequence[Run], text: str | None, tasks: Sequence[str]) -> Need:
    """Return what is to be as good as possible, as a need whose bound counts for nothing."""
    if text is None:
        shape = longest_common([run.record for run in everything])
        text = f"decode@{shape[0]}/{shape[1]}" if shape else "size"
    try:
        return parse(f"{text}<=1", tasks)
    except ConfigError:
        known = ", ".join((*(f"{name}@30k" for name in FIGURES), "memory", "size", *tasks))
        raise ConfigError(f"goal '{text}' is not known; known: {known}") from None


def words(goal: Need) -> str:
    """Return a goal in words."""
    best = "lowest" if goal.subject in LOWER else "highest"
    names = {"ttft": "TTFT", "tpot": "TPOT", "decode": "decode speed", "prefill": "prefill speed", "size": "checkpoint"}
    name = names.get(goal.subject, goal.subject)
    at = f" at {goal.input_len:,} input tokens" if goal.input_len else ""
    load = f", {goal.concurrency} at once" if goal.concurrency else ""
    return f"{'smallest' if goal.subject == 'size' else best} {name}{at}{load}"


def decision(records: Sequence[RunRecord], constraints: Sequence[str] = (), goal: str | None = None) -> Decision:
    """Return which of the runs is worth using.

    Args:
        records: of one model.
        constraints: as they were typed; without ``accuracy_margin`` among them the margin of the runs is a need too.
        goal: a figure such as ``decode@30k``; None for decode speed at the longest input length that all have measured,
            or for the smallest checkpoint where there is none.

    Raises:
        ConfigError: a constraint cannot be understood.
    """
    everything = runs(records)
    tasks = tuple(dict.fromkeys(score.task for record in records for score in record.scores))
    needs = [parse(text, tasks) for text in constraints]
    wanted = _goal([run for run in everything if not run.record.run_id.endswith(BESIDE)], goal, tasks)
    margin = _margin(records, needs)
    if margin and margin.origin != "given":
        needs.append(_need_of(margin))
    found = [(one.run.record.run_id, one.verdict.comparison) for one in judged(records) if one.verdict]
    verdicts_now = judge([each for _, each in found], margin.value) if margin else ()
    again = list(zip((run_id for run_id, _ in found), verdicts_now, strict=True))
    candidates = []
    for run in everything:
        verdicts = [verdict for run_id, verdict in again if run_id == run.record.run_id]
        held = tuple(
            _held_accuracy(need, run, verdicts)
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
                goal=None if isinstance(figure, str) else figure,
                accuracy=_change(verdicts) if run.quantized else none,
            )
        )
    return decide(words(wanted), wanted.subject, candidates, lower_is_better=wanted.subject in LOWER, margin=margin)
