"""Every series that some runs belong to, judged night by night."""

from collections.abc import Container, Iterable, Sequence

from bench.history.index import Index, RunRow, SeriesKey
from bench.history.series import EpochMark, Figure
from bench.nightly.course import Course, JudgedNight, Standing, by_night, replay
from bench.nightly.rule import Rule
from quantize.key import canonical_json, sha256_text

FIGURES: tuple[Figure, ...] = ("decode", "prefill")


def name_of(key: SeriesKey, figure: Figure) -> str:
    """Return what a series is called."""
    return f"{key.model} {key.quant} {key.engine} in{key.input_len} out{key.output_len} c{key.concurrency} {figure}"


def standings(index: Index, runs: Iterable[RunRow], marks: Sequence[EpochMark]) -> dict[str, Standing]:
    """Return {name: where it stands} of every series that has one of the runs in its last night.

    Where each series stood before its last night is kept in the index: the next time only what is new is judged.
    """
    wanted, run_ids = _of(runs)
    signature = sha256_text(canonical_json([Rule().model_dump(), [mark.model_dump() for mark in marks]]))
    kept = index.courses(signature, wanted)
    found, moved = {}, []
    for key in index.series(wanted):
        for figure in FIGURES:
            through, state = kept.get((key, figure), ("", ""))
            nights = by_night(index.nights(key, figure, after=through))
            if not nights or not any(run.run_id in run_ids for run in nights[-1]):
                continue
            course = Course(marks)
            if state:
                course.go_on(state)
            for night in nights[:-1]:
                course.step(night)
            if len(nights) > 1:
                moved.append((key, figure, nights[-2][-1].started_at, course.state()))
            found[name_of(key, figure)] = course.standing(course.step(nights[-1]))
    if moved:
        index.keep_courses(signature, moved)
    return found


def histories(
    index: Index, runs: Iterable[RunRow], marks: Sequence[EpochMark], names: Container[str] | None = None
) -> dict[str, tuple[JudgedNight, ...]]:
    """Return {name: nights, oldest first} of every series that has one of the runs.

    Args:
        index: of the results folder.
        runs: the series' runs, or some of them.
        marks: where people began new epochs.
        names: only these series, if given.
    """
    wanted, run_ids = _of(runs)
    found = {}
    for key in index.series(wanted):
        for figure in FIGURES:
            name = name_of(key, figure)
            if names is not None and name not in names:
                continue
            nights = index.nights(key, figure)
            if any(night.run_id in run_ids for night in nights):
                found[name] = replay(nights, marks)
    return found


def _of(runs: Iterable[RunRow]) -> tuple[set[tuple[str, str, str]], set[str]]:
    """Return the variants and the ids of runs."""
    rows = list(runs)
    return {(row.model, row.quant, row.engine) for row in rows}, {row.run_id for row in rows}
