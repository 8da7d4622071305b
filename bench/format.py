"""Numbers for people: three significant digits and a fitting unit. The exact value goes into the cell's title."""

MISSING = "–"


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


def size(value: float) -> str:
    """Return bytes in decimal units: ``269 MB``."""
    return _scaled(value, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))) if value else "0 B"


def rate(value: float) -> str:
    """Return tokens per second as ``12.3 tok/s``."""
    return f"{significant(value)} tok/s"


def between(low: str, high: str) -> str:
    """Return two formatted quantities as a range, the unit once where they share it: ``44.1–47.2 ms``."""
    number, _, unit = low.partition(" ")
    return f"{number}–{high}" if unit == high.partition(" ")[2] else f"{low} – {high}"


def two_decimals(value: float) -> str:
    """Return ``value`` with two decimals."""
    return f"{value:,.2f}"


def moment(iso: str) -> str:
    """Return an ISO 8601 time in UTC as ``2026-11-24 02:06:31``."""
    return iso.replace("T", " ").removesuffix("+00:00")


def share(value: float) -> str:
    """Return a score on lm-eval's own scale, mostly 0 to 1, with three decimals."""
    return f"{value:.3f}"


def percent(value: float) -> str:
    """Return a share of 1 as ``98.7 %``."""
    return f"{100 * value:.1f} %"


def small_percent(value: float) -> str:
    """Return a share of 1 that may be small as ``0.664 %``."""
    return f"{significant(100 * value)} %"


def points(difference: float) -> str:
    """Return a difference of two shares in percentage points, signed: ``−1.2 pp``."""
    text = f"{100 * difference:+.1f}"
    return f"{'0.0' if float(text) == 0 else text.replace('-', '−')} pp"


def count(value: int) -> str:
    """Return a whole number with separators."""
    return f"{value:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 run`` or ``2 runs``."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
