"""Every series that some runs belong to, judged night by night."""

from collections.abc import Iterable, Sequence

from bench.analysis.gate import Rule
from bench.analysis.history import Course, Figure, Judged, Mark, by_night, replay
from bench.index import Index, RunRow, SeriesKey
from quantize.key import canonical_json, sha256_text

FIGURES: tuple[Figure, ...] = ("decode", "prefill")


def name_of(key: SeriesKey, figure: Figure) -> str:
    """Return what a series is called."""
    return f"{key.model} {key.quant} {key.engine} in{key.input_len} out{key.output_len} c{key.concurrency} {figure}"


def last_nights(index: Index, runs: Iterable[RunRow], marks: Sequence[Mark]) -> dict[str, Judged]:
    """Return {name: its last night} of every series that has one of the runs in that night.

    Where each series stood before its last night is kept in the index: the next time only what is new is judged.
    """
    rows = list(runs)
    wanted, run_ids = {(row.model, row.quant, row.engine) for row in rows}, {row.run_id for row in rows}
    signature = sha256_text(canonical_json([Rule().model_dump(), [mark.model_dump() for mark in marks]]))
    kept = index.courses(signature)
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
            found[name_of(key, figure)] = course.step(nights[-1])
    index.keep_courses(signature, moved)
    return found


def histories(index: Index, runs: Iterable[RunRow], marks: Sequence[Mark]) -> dict[str, tuple[Judged, ...]]:
    """Return {name: nights, oldest first} of every series that has one of the runs."""
    rows = list(runs)
    wanted, run_ids = {(row.model, row.quant, row.engine) for row in rows}, {row.run_id for row in rows}
    found = {}
    for key in index.series(wanted):
        for figure in FIGURES:
            nights = index.nights(key, figure)
            if any(night.run_id in run_ids for night in nights):
                found[name_of(key, figure)] = replay(nights, marks)
    return found
