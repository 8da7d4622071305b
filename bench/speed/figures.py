"""What the figures of a speed cell may be used for: the one place where its status decides that.

Charts, comparisons and derived exports take a :class:`MeasuredCell`, so a type checker refuses them any other cell. The
times of an :class:`EmulatedCell` are real, but of another computation than the variant's: only what shows everything
that was recorded reads them, that is tables (with the status next to the figures) and the raw exports.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench.records.record import RequestTrace, SpeedCell
from bench.speed.metrics import CellSummary, summarize, typical


@dataclass(frozen=True)
class MeasuredCell:
    """A cell whose status is ``ok``: its figures are those of the variant."""

    cell: SpeedCell

    def __post_init__(self) -> None:
        """Refuse any other cell."""
        if self.cell.status != "ok":
            raise ValueError(f"a cell that is {self.cell.status} has no figures of its variant")

    @property
    def summary(self) -> CellSummary:
        """Its figures, to be drawn, compared and derived from."""
        return summarize(self.cell)

    @property
    def recorded(self) -> CellSummary:
        """The same figures, to be listed with those of emulated cells."""
        return self.summary


@dataclass(frozen=True)
class EmulatedCell:
    """A cell that passed every check on a server that did not compute on quantized kernels."""

    cell: SpeedCell

    @property
    def recorded(self) -> CellSummary:
        """Figures of that server, to be listed with their status; they say nothing about the variant."""
        return summarize(self.cell)


@dataclass(frozen=True)
class UnmeasuredCell:
    """A cell without figures: invalid, not supported, or failed."""

    cell: SpeedCell


RecordedCell = MeasuredCell | EmulatedCell
CellFigures = MeasuredCell | EmulatedCell | UnmeasuredCell


def figures_of(cell: SpeedCell) -> CellFigures:
    """Return a cell as what its status makes of it."""
    if cell.status == "ok":
        return MeasuredCell(cell)
    return EmulatedCell(cell) if cell.status == "emulated" else UnmeasuredCell(cell)


def measured_cell(cell: SpeedCell) -> MeasuredCell | None:
    """Return a cell whose figures may be drawn and compared; None for any other."""
    figures = figures_of(cell)
    return figures if isinstance(figures, MeasuredCell) else None


def recorded_cell(cell: SpeedCell) -> RecordedCell | None:
    """Return a cell whose figures may be listed with its status; None for one without figures."""
    figures = figures_of(cell)
    return None if isinstance(figures, UnmeasuredCell) else figures


def per_trial(cell: MeasuredCell, figure: Callable[[RequestTrace], float | None]) -> list[float]:
    """Return the median of a figure over each trial's requests, in the order of the trials that have it."""
    return [value for trial in cell.cell.trials if (value := typical(trial, figure)) is not None]
