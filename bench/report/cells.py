"""Cells and words of comparisons with BF16, the same in every table."""

from collections.abc import Iterable

from bench import format as fmt
from bench.analysis.difference import Difference
from bench.analysis.estimate import Estimate
from bench.messages.message import Words, msg
from bench.report.document import Cell, number
from bench.report.units import BYTES, OF_ONE
from bench.report.view import Run
from bench.speed.figures import RecordedCell

SPEEDUP = {
    "faster": msg("speedup.faster"),
    "slower": msg("speedup.slower"),
    "no difference seen": msg("speedup.no_difference"),
    "not enough data": msg("speedup.too_few"),
}
"""{verdict on a speed-up: its words}."""
BOUND = {"memory": msg("bound.memory"), "compute": msg("bound.compute")}
"""{what a piece of work is bound by: its words}."""
SMALLEST_P = 0.001
SMALLEST_NATS = 0.0001
points = fmt.points_by_width


def peak_bytes(cells: Iterable[RecordedCell]) -> int | None:
    """Return the highest memory of the server in any of the cells; None where it is not known."""
    peaks = (cell.recorded.peak_memory_bytes for cell in cells)
    return max((peak for peak in peaks if peak is not None), default=None)


def peak_cell(run: Run) -> Cell:
    """Return the cell of a run's highest memory; faint where only emulated cells have one."""
    measured = peak_bytes(run.measured())
    highest = peak_bytes(run.recorded()) if measured is None else measured
    return number(highest, fmt.size, BYTES, faint=measured is None)


def to(low: str, high: str) -> Words:
    """Return an interval whose ends may be negative, so that a dash between them would look like a sign."""
    return msg("range.to", low=low, high=high)


def exact(estimate: Estimate, unit: Words) -> Words:
    """Return a value and its interval with all digits."""
    return msg(
        "exact.estimate", value=repr(estimate.value), low=repr(estimate.low), high=repr(estimate.high), unit=unit
    )


def delta_cell(estimate: Estimate) -> Cell:
    """Return the cell of a difference in percentage points with its interval below it."""
    width = estimate.high - estimate.low
    low, high = points(estimate.low, width), points(estimate.high, width)
    return Cell(f"{points(estimate.value, width)} pp", (to(low, high),), exact(estimate, OF_ONE), numeric=True)


def recovery_cell(estimate: Estimate | None) -> Cell:
    """Return the cell of a ratio with its interval below it; a dash for None."""
    if estimate is None:
        return Cell(numeric=True)
    interval = fmt.between(fmt.percent(estimate.low), fmt.percent(estimate.high))
    return Cell(fmt.percent(estimate.value), (interval,), exact(estimate, OF_ONE), numeric=True)


def flips_cell(difference: Difference) -> Cell:
    """Return the cell of items gained and lost."""
    notes = (msg("cell.of", total=fmt.count(difference.n)), msg("cell.flip", share=fmt.percent(difference.flip_rate)))
    digits = msg("exact.flips", gained=str(difference.gained), lost=str(difference.lost), items=str(difference.n))
    return Cell(f"+{fmt.count(difference.gained)} −{fmt.count(difference.lost)}", notes, digits, numeric=True)


def p_text(p: float) -> str:
    """Return a p value."""
    return f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}"


def p_cell(p: float) -> Cell:
    """Return the cell of a p value."""
    return Cell(p_text(p), exact=repr(p), numeric=True)


def nats(value: float) -> str:
    """Return a divergence with two significant digits, but at most four decimals."""
    if 0 < value < SMALLEST_NATS:
        return f"< {SMALLEST_NATS}"
    return f"{value:#.2g}" if value < 1 else f"{value:.1f}"


def kl_cell(estimate: Estimate | None) -> Cell:
    """Return the cell of a divergence with its interval below it; a dash for None."""
    if estimate is None:
        return Cell(numeric=True)
    return Cell(
        nats(estimate.value), (to(nats(estimate.low), nats(estimate.high)),), exact(estimate, "nats"), numeric=True
    )
