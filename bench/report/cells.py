"""Cells and words of comparisons with BF16, the same in every table."""

from bench import format as fmt
from bench.analysis.difference import Difference
from bench.analysis.estimate import Estimate
from bench.report.document import Cell

SMALLEST_P = 0.001
SMALLEST_NATS = 0.0001
points = fmt.points_by_width


def delta_cell(found: Estimate) -> Cell:
    """Return the cell of a difference in percentage points with its interval below it."""
    width = found.high - found.low
    low, high = points(found.low, width), points(found.high, width)
    exact = f"{found.value!r} of 1, interval {found.low!r} to {found.high!r}"
    return Cell(f"{points(found.value, width)} pp", (f"{low} to {high}",), exact, numeric=True)


def recovery_cell(found: Estimate | None) -> Cell:
    """Return the cell of a ratio with its interval below it; a dash for None."""
    if found is None:
        return Cell(numeric=True)
    exact = f"{found.value!r} of 1, interval {found.low!r} to {found.high!r}"
    interval = fmt.between(fmt.percent(found.low), fmt.percent(found.high))
    return Cell(fmt.percent(found.value), (interval,), exact, numeric=True)


def flips_cell(found: Difference) -> Cell:
    """Return the cell of items gained and lost."""
    notes = (f"of {fmt.count(found.n)}", f"{fmt.percent(found.flip_rate)} flip")
    exact = f"{found.gained} gained, {found.lost} lost of {found.n} items"
    return Cell(f"+{fmt.count(found.gained)} −{fmt.count(found.lost)}", notes, exact, numeric=True)


def p_text(p: float) -> str:
    """Return a p value."""
    return f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}"


def p_cell(p: float) -> Cell:
    """Return the cell of a p value."""
    return Cell(p_text(p), exact=repr(p), numeric=True)


def nats(value: float) -> str:
    """Return a divergence with two significant digits, but not more than four decimals."""
    if 0 < value < SMALLEST_NATS:
        return f"< {SMALLEST_NATS}"
    return f"{value:#.2g}" if value < 1 else f"{value:.1f}"


def kl_cell(found: Estimate | None) -> Cell:
    """Return the cell of a divergence with its interval below it; a dash for None."""
    if found is None:
        return Cell(numeric=True)
    exact = f"{found.value!r} nats, interval {found.low!r} to {found.high!r}"
    return Cell(nats(found.value), (f"{nats(found.low)} to {nats(found.high)}",), exact, numeric=True)
