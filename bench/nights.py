"""Every series that some runs belong to, judged night by night."""

from collections.abc import Iterable, Sequence

from bench.analysis.history import Figure, Judged, Mark, replay
from bench.index import Index, RunRow, SeriesKey

FIGURES: tuple[Figure, ...] = ("decode", "prefill")


def name_of(key: SeriesKey, figure: Figure) -> str:
    """Return what a series is called."""
    return f"{key.model} {key.quant} {key.engine} in{key.input_len} out{key.output_len} c{key.concurrency} {figure}"


def histories(index: Index, runs: Iterable[RunRow], marks: Sequence[Mark]) -> dict[str, tuple[Judged, ...]]:
    """Return {name: nights, oldest first} of every series that has one of the runs."""
    rows = list(runs)
    wanted, run_ids = {(row.model, row.quant, row.engine) for row in rows}, {row.run_id for row in rows}
    found = {}
    for key in index.series():
        if (key.model, key.quant, key.engine) not in wanted:
            continue
        for figure in FIGURES:
            nights = index.nights(key, figure)
            if any(night.run_id in run_ids for night in nights):
                found[name_of(key, figure)] = replay(nights, marks)
    return found
