"""The time of a token by a law of two parameters: an overhead, and bytes over an effective bandwidth. Pure functions.

t = overhead + bytes / bandwidth, fitted to published cells at batch 1 and input 1 by weighted least squares: weights
1/t², so that relative deviations count alike, because the models range from 1 to 65 GB. Cells with another setting than
their page's default, and doubtful ones, are left out. Intervals are Student's t with n - 2 degrees of freedom, for one
further cell (prediction) and not for the line (Draper and Smith, "Applied Regression Analysis", 3rd ed., 1.4).
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from bench.analysis.estimate import Estimate
from bench.published.figures import PublishedCell, architecture_of, cells, limit_of, sources
from quantize.key import Frozen

CONFIDENCE = 0.95
"""Of prediction intervals."""
FEWEST = 4
"""Fewest cells to fit: two for the parameters, and two more for their uncertainty."""
PASSES = 5
"""Iterations of the weights, which converge long before."""


class Residual(Frozen):
    """One published cell and its deviation from the law."""

    model: str
    label: str
    bytes_per_step: float
    tpot_s: float
    relative: float
    """Share: (published - fitted) / fitted."""


class Law(Frozen):
    """The fitted law and its uncertainty."""

    source: str
    device: str
    """The device of the cells, as its driver calls it."""
    peak_bytes_per_s: float
    """That device's bandwidth."""
    overhead_s: float
    s_per_byte: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    """In the unit of (overhead_s, s_per_byte), multiplied with each other."""
    relative_sd: float
    """Standard deviation of one cell, as a share of its time."""
    residuals: tuple[Residual, ...]

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Effective bandwidth."""
        return 1 / self.s_per_byte

    @property
    def standard_errors(self) -> tuple[float, float]:
        """Of ``overhead_s`` and ``s_per_byte``."""
        return math.sqrt(self.covariance[0][0]), math.sqrt(self.covariance[1][1])

    def predict(self, bytes_per_step: float, *, bandwidth_bytes_per_s: float | None = None) -> Estimate:
        """Return the time per output token with its 95 % prediction interval.

        Args:
            bytes_per_step: that one decode step reads.
            bandwidth_bytes_per_s: of another device, which is assumed to reach the same share of its bandwidth with the
                same overhead; no published figures test that. None for the law's own device.
        """
        scale = self.peak_bytes_per_s / (bandwidth_bytes_per_s or self.peak_bytes_per_s)
        x = np.array([1.0, bytes_per_step * scale])
        value = float(x @ np.array([self.overhead_s, self.s_per_byte]))
        variance = float(x @ np.array(self.covariance) @ x) + (self.relative_sd * value) ** 2
        from scipy.special import stdtrit  # takes longer to import than most commands take

        half = float(stdtrit(len(self.residuals) - 2, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)
        return Estimate(low=max(0.0, value - half), value=value, high=value + half)


def fit(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], tuple[tuple[float, float], ...], float]:
    """Fit t = a + b x with weights 1/t²; return ((a, b), their covariance, relative standard deviation of a point).

    Args:
        points: (bytes, seconds), at least ``FEWEST``.

    Raises:
        ValueError: there are fewer points, or all have the same bytes.
    """
    if len(points) < FEWEST or len({x for x, _ in points}) < 2:
        raise ValueError(f"{len(points)} points, at least {FEWEST} of different sizes are needed")
    x, t = (np.array(values) for values in zip(*points, strict=True))
    scale = x.mean()
    fitted = t
    for _ in range(PASSES):  # weights by the fitted times: observed times would favour cells that happen to be fast
        design = np.column_stack([np.ones_like(x), x / scale]) / fitted[:, None]
        solution, *_ = np.linalg.lstsq(design, t / fitted, rcond=None)
        off = t / fitted - design @ solution
        fitted = np.maximum(solution[0] + solution[1] * x / scale, t.min() / 10)
    variance = float(off @ off) / (len(points) - 2)
    covariance = variance * np.linalg.inv(design.T @ design) / np.outer([1, scale], [1, scale])
    rows = tuple((float(row[0]), float(row[1])) for row in covariance)
    return (float(solution[0]), float(solution[1] / scale)), rows, math.sqrt(variance)


def _has_experts(model: str) -> bool:
    shapes = architecture_of(model)
    return shapes is not None and shapes.experts > 0


def _usable(cell: PublishedCell, source: str, quant: str, engine: str) -> bool:
    """Whether a cell belongs to a law: one device, a dense model, a prompt of one token, the default setting."""
    return (
        (cell.source, cell.quant, cell.engine) == (source, quant, engine)
        and cell.input_len == 1
        and cell.devices == 1
        and not cell.setting
        and not cell.doubt
        and not _has_experts(cell.model)
    )


@cache
def law_for(quant: str, engine: str, source: str | None) -> Law | None:
    """Return the law of a quantization on an engine; None where too few cells are published.

    Args:
        quant: name of the quantization.
        engine: name of the engine that served the cells.
        source: page of published figures that they are taken from; None where no page covers the engine.
    """
    if source is None:
        return None
    used = [
        (cell, roof, cell.tpot_s)
        for cell in cells()
        if _usable(cell, source, quant, engine) and cell.tpot_s and (roof := limit_of(cell))
    ]
    try:
        (overhead, slope), covariance, relative_sd = fit([(roof.traffic.total_bytes, tpot) for _, roof, tpot in used])
    except ValueError:
        return None
    residuals = tuple(
        Residual(
            model=cell.model,
            label=cell.label,
            bytes_per_step=roof.traffic.total_bytes,
            tpot_s=tpot,
            relative=tpot / (overhead + slope * roof.traffic.total_bytes) - 1,
        )
        for cell, roof, tpot in used
    )
    return Law(
        source=source,
        device=sources()[source].device or "",
        peak_bytes_per_s=used[0][1].device.bandwidth_bytes_per_s,
        overhead_s=overhead,
        s_per_byte=slope,
        covariance=(covariance[0], covariance[1]),
        relative_sd=relative_sd,
        residuals=residuals,
    )
