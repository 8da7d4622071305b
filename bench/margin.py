"""The accuracy margin, the loss of accuracy that does not matter, and which one applies. Pure functions.

A margin means something only if it was set before the measurement, so a run declares its own (``accuracy.margin``) and
that one applies unless another is given.
"""

from collections.abc import Sequence
from typing import Literal

from bench.record import RunRecord
from quantize.key import Frozen

MARGIN = 0.01
"""Default, of 1: one percentage point."""


class Margin(Frozen):
    """The margin that applies to a set of runs, and where it comes from."""

    value: float
    """Of 1."""
    origin: Literal["given", "declared", "default"]
    declared: tuple[float, ...]
    """Every margin that the runs declare, smallest first."""

    @property
    def words(self) -> str:
        """Return value and origin as one clause."""
        every = ", ".join(map(in_points, self.declared))
        if self.origin == "given":
            return f"{in_points(self.value)}, as given" + (f" (the runs declare {every})" if every else "")
        if self.origin == "default":
            return f"{in_points(self.value)}, the default (the runs declare none)"
        if len(self.declared) > 1:
            return f"{in_points(self.value)}, the strictest of those that the runs declare ({every})"
        return f"{in_points(self.value)}, as the runs declare"


def in_points(margin: float) -> str:
    """Return a margin in percentage points, e.g. ``1 pp``."""
    return f"{100 * margin:g} pp"


def declared_by(record: RunRecord) -> float | None:
    """Return the margin that a run declares, of 1; None for records older than the setting."""
    margin = record.spec.get("accuracy", {}).get("margin")
    return None if margin is None else float(margin)


def applied(records: Sequence[RunRecord], given: float | None = None) -> Margin:
    """Return the margin by which runs are judged together: the one that is given, or the strictest that they declare.

    Args:
        records: the runs that are judged.
        given: margin that takes precedence, of 1.
    """
    found = [declared_by(record) for record in records]
    declared = tuple(sorted({margin for margin in found if margin is not None}))
    if given is not None:
        return Margin(value=given, origin="given", declared=declared)
    if not declared:
        return Margin(value=MARGIN, origin="default", declared=())
    # A record without a margin was measured when the default was the only one.
    every = tuple(sorted({MARGIN if margin is None else margin for margin in found}))
    return Margin(value=every[0], origin="declared", declared=every)
