"""The accuracy margin, the largest loss of accuracy that is acceptable: how it is parsed and which one applies. Pure.

A margin is meaningful only if it was set before the measurement. Each run therefore declares its own
(``accuracy.margin``), which applies unless another is given.
"""

import re
from collections.abc import Sequence
from typing import Literal

from bench.records.record import RunRecord
from quantize.key import Frozen

LARGEST = 0.5
"""Largest margin that can be set, of 1: a larger one would accept nearly any loss."""
FORM = re.compile(r"(\d*\.?\d+(?:e[+-]?\d+)?)\s*(pp|%)?", re.IGNORECASE)


class Margin(Frozen):
    """The margin that applies to a set of runs, and its origin."""

    value: float
    """Of 1."""
    origin: Literal["given", "declared"]
    declared: tuple[float, ...]
    """Every margin that the runs declare, of 1, smallest first."""

    @property
    def words(self) -> str:
        """Value and origin as one clause."""
        every = ", ".join(map(in_points, self.declared))
        if self.origin == "given":
            return f"{in_points(self.value)}, as given" + (f" (the runs declare {every})" if every else "")
        if len(self.declared) > 1:
            return f"{in_points(self.value)}, the strictest of those that the runs declare ({every})"
        return f"{in_points(self.value)}, as the runs declare"


def parse_margin(text: str, setting: str) -> float:
    """Return a margin, of 1.

    Args:
        text: percentage points with their unit, such as ``1pp`` or ``1%``, or a share of 1, such as ``0.01``.
        setting: text before the value where it is set, such as ``accuracy_margin=``; the advice repeats it.

    Raises:
        ValueError: it is not a margin, or accepts nearly any loss. The message says what to write.
    """
    match = FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text} is not a margin; write {setting}1pp (or 0.01)")
    number, unit = float(match[1]), match[2]
    if unit is None and number >= 1:
        meant = number if number <= 100 * LARGEST else 1
        raise ValueError(f"{text} would accept any loss; write {setting}{meant:g}pp (or {meant / 100:g})")
    margin = number / 100 if unit else number
    if not 0 < margin <= LARGEST:
        raise ValueError(
            f"{text} is out of range: a margin is more than 0 and at most {in_points(LARGEST)}; "
            f"write {setting}1pp (or 0.01)"
        )
    return margin


def in_points(margin: float) -> str:
    """Return a margin in percentage points, e.g. ``1 pp``."""
    return f"{100 * margin:g} pp"


def applicable_margin(records: Sequence[RunRecord], given: float | None = None) -> Margin | None:
    """Return the margin for runs that are judged together: the given one, or else the strictest that they declare.

    A margin that is loosened after the measurement proves nothing, so the strictest applies to all of them. None if
    there are no runs and none is given.

    Args:
        records: the runs to judge.
        given: margin that takes precedence, of 1.
    """
    declared = tuple(sorted({record.spec.accuracy.margin for record in records}))
    if given is not None:
        return Margin(value=given, origin="given", declared=declared)
    return Margin(value=declared[0], origin="declared", declared=declared) if declared else None
