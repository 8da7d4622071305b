"""Cells and words of comparisons with BF16, the same in every table."""

from bench import format as fmt
from bench.analysis.difference import Difference
from bench.analysis.estimate import Estimate
from bench.messages.message import Words, msg
from bench.report.document import Cell
from bench.report.units import OF_ONE

SPEEDUP = {
    "faster": msg("speedup.faster"),
    "slower": msg("speedup.slower"),
    "no difference seen": msg("speedup.no_difference"),
    "not enough data": msg("speedup.too_few"),
}
"""{verdict on a speed-up: its words}."""
BOUND = {"memory": msg("bound.memory"), "compute": msg("bound.compute")}
"""{what binds a piece of work: its words}."""
SMALLEST_P = 0.001
SMALLEST_NATS = 0.0001
points = fmt.points_by_width


def to(low: str, high: str) -> Words:
    """Return an interval whose ends may be negative, where a dash would be taken for a sign."""
    return msg("range.to", low=low, high=high)


def exact(found: Estimate, unit: Words) -> Words:
    """Return a value and its interval with all their digits."""
    return msg("exact.estimate", value=repr(found.value), low=repr(found.low), high=repr(found.high), unit=unit)


def delta_cell(found: Estimate) -> Cell:
    """Return the cell of a difference in percentage points with its interval below it."""
    width = found.high - found.low
    low, high = points(found.low, width), points(found.high, width)
    return Cell(f"{points(found.value, width)} pp", (to(low, high),), exact(found, OF_ONE), numeric=True)


def recovery_cell(found: Estimate | None) -> Cell:
    """Return the cell of a ratio with its interval below it; a dash for None."""
    if found is None:
        return Cell(numeric=True)
    interval = fmt.between(fmt.percent(found.low), fmt.percent(found.high))
    return Cell(fmt.percent(found.value), (interval,), exact(found, OF_ONE), numeric=True)


def flips_cell(found: Difference) -> Cell:
    """Return the cell of items gained and lost."""
    notes = (msg("cell.of", total=fmt.count(found.n)), msg("cell.flip", share=fmt.percent(found.flip_rate)))
    digits = msg("exact.flips", gained=str(found.gained), lost=str(found.lost), items=str(found.n))
    return Cell(f"+{fmt.count(found.gained)} −{fmt.count(found.lost)}", notes, digits, numeric=True)


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
    return Cell(nats(found.value), (to(nats(found.low), nats(found.high)),), exact(found, "nats"), numeric=True)
