"""Number formats for the report, the terminal and messages: significant digits and a suitable unit.

The report shows the exact value as the title of a table cell.
"""

from collections.abc import Callable

MISSING = "–"
FINE = 0.02
"""Width of an interval, as a share of 1, below which percentage points get two decimals."""


def optional(value: float | None, show: Callable[[float], str], missing: str = MISSING) -> str:
    """Return a number formatted by ``show``, or ``missing`` for None."""
    return missing if value is None else show(value)


def significant(value: float) -> str:
    """Return ``value`` with three significant digits, or as a whole number with separators from 1000 on."""
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if value else "0"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    scale, unit = next((pair for pair in units if abs(value) >= 0.9995 * pair[0]), units[-1])
    return f"{significant(value / scale)} {unit}"


def seconds(value: float) -> str:
    """Return a duration in seconds as ``1.23 s``, ``45.6 ms`` or ``7.89 µs``."""
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))) if value else "0 s"


def duration(value: float) -> str:
    """Return seconds in units up to days, with one decimal: ``1.5 min``."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if value >= unit_s:
            return f"{value / unit_s:.1f} {unit}"
    return f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def size(value: float) -> str:
    """Return bytes in decimal units: ``269 MB``."""
    return _scaled(value, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))) if value else "0 B"


def space(value: float) -> str:
    """Return an amount of memory or disk space with one decimal: ``15.2 GB``."""
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def rate(value: float) -> str:
    """Return tokens per second as ``12.3 tok/s``."""
    return f"{significant(value)} tok/s"


def between(low: str, high: str) -> str:
    """Return two formatted quantities as a range, with a shared unit only once: ``44.1–47.2 ms``."""
    number, _, unit = low.partition(" ")
    return f"{number}–{high}" if unit == high.partition(" ")[2] else f"{low} – {high}"


def two_decimals(value: float) -> str:
    """Return ``value`` with two decimals."""
    return f"{value:,.2f}"


def moment(iso: str) -> str:
    """Return an ISO 8601 time in UTC as ``2026-11-24 02:06:31``."""
    return iso.replace("T", " ").removesuffix("+00:00")


def share(value: float) -> str:
    """Return a score on lm-eval's scale, usually 0 to 1, with three decimals."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """Return a share of 1 as ``98.7 %``."""
    return f"{100 * value:.1f} %"


def small_percent(value: float) -> str:
    """Return a small share of 1 with three significant digits: ``0.664 %``."""
    return f"{significant(100 * value)} %"


def rough_percent(share: float) -> str:
    """Return a share of 1 as ``3.1 %``, without decimals from 10 % on."""
    return percent(share) if share < 0.1 else f"{100 * share:.0f} %"


def points(difference: float) -> str:
    """Return a difference of two shares in percentage points, signed: ``−1.2 pp``."""
    text = f"{100 * difference:+.1f}"
    return f"{'0.0' if float(text) == 0 else text.replace('-', '−')} pp"


def points_by_width(share: float, width: float = 1.0, *, signed: bool = True) -> str:
    """Return a share in percentage points without unit; the interval's width decides the number of decimals.

    Args:
        share: a share of 1.
        width: width of the interval, as a share of 1.
        signed: whether to write a plus sign.
    """
    text = f"{100 * share:{'+' if signed else ''}.{2 if width < FINE else 1}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def points_with_interval(value: float, low: float, high: float) -> str:
    """Return a difference of two shares in percentage points with its interval: ``−1.2 pp (−2.3 to −0.1)``."""
    width = high - low
    return f"{points_by_width(value, width)} pp ({points_by_width(low, width)} to {points_by_width(high, width)})"


def points_by_size(share: float) -> str:
    """Return a share in percentage points without unit or plus sign, with two decimals below 1: ``0.26``."""
    value = 100 * share
    return (f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}").replace("-", "−")


def count(value: int) -> str:
    """Return a whole number with separators."""
    return f"{value:,}"


def plural(number: int, singular: str, many: str | None = None) -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{count(number)} {singular if number == 1 else many or singular + 's'}"
