"""The series of given runs, judged night by night."""

from collections.abc import Container, Iterable, Sequence

from bench.history.index import Index, RunRow, SeriesKey
from bench.history.series import EpochMark, Figure
from bench.nightly.course import Course, JudgedNight, Standing, by_night, replay
from bench.nightly.rule import Rule
from quantize.key import canonical_json, sha256_text

FIGURES: tuple[Figure, ...] = ("decode", "prefill")


def name_of(key: SeriesKey, figure: Figure) -> str:
    """Return the name of a series."""
    return f"{key.model} {key.quant} {key.engine} in{key.input_len} out{key.output_len} c{key.concurrency} {figure}"


def standings(index: Index, runs: Iterable[RunRow], marks: Sequence[EpochMark]) -> dict[str, Standing]:
    """Return {name: summary} for every series with one of the runs in its last night.

    The index stores the state of each series before its last night, so that the next call only judges new nights.
    """
    variants, run_ids = _of(runs)
    signature = sha256_text(canonical_json([Rule().model_dump(), [mark.model_dump() for mark in marks]]))
    states = index.courses(signature, variants)
    summaries, advanced = {}, []
    for key in index.series(variants):
        for figure in FIGURES:
            through, state = states.get((key, figure), ("", ""))
            nights = by_night(index.nights(key, figure, after=through))
            if not nights or not any(run.run_id in run_ids for run in nights[-1]):
                continue
            course = Course(marks)
            if state:
                course.resume(state)
            for night in nights[:-1]:
                course.step(night)
            if len(nights) > 1:
                advanced.append((key, figure, nights[-2][-1].started_at, course.state()))
            summaries[name_of(key, figure)] = course.standing(course.step(nights[-1]))
    if advanced:
        index.keep_courses(signature, advanced)
    return summaries


def histories(
    index: Index, runs: Iterable[RunRow], marks: Sequence[EpochMark], names: Container[str] | None = None
) -> dict[str, tuple[JudgedNight, ...]]:
    """Return {name: nights, oldest first} for every series with one of the runs.

    Args:
        index: index of the results folder.
        runs: the series' runs, or some of them.
        marks: manually accepted epochs.
        names: only these series; None for all.
    """
    variants, run_ids = _of(runs)
    judged = {}
    for key in index.series(variants):
        for figure in FIGURES:
            name = name_of(key, figure)
            if names is not None and name not in names:
                continue
            nights = index.nights(key, figure)
            if any(night.run_id in run_ids for night in nights):
                judged[name] = replay(nights, marks)
    return judged


def _of(runs: Iterable[RunRow]) -> tuple[set[tuple[str, str, str]], set[str]]:
    """Return the variants and the ids of runs."""
    rows = list(runs)
    return {(row.model, row.quant, row.engine) for row in rows}, {row.run_id for row in rows}
