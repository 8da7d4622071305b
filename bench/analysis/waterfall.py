"""Split a measured speed-up into factors: fewer bits, 16-bit layers, the KV cache, kernels, fixed time, prefill.

Decoding would speed up by the ratio of the bytes of a step if memory were the only limit, only the quantized layers
were read, and the kernels were equally efficient. Each step of a waterfall drops one of these assumptions; the product
of all steps is exactly the measured speed-up. Pure functions.
"""

from collections.abc import Sequence

import numpy as np

from bench.limits.roofline import Limit, Traffic
from bench.speed.figures import MeasuredCell
from bench.speed.metrics import Interval
from quantize.key import Frozen

WEIGHTS = "fewer bits"
REST = "16-bit layers"
CACHE = "KV cache"
KERNELS = "kernels"
OVERHEAD = "fixed time"
BOTH = "kernels and fixed time"
PREFILL = "prefill"
NAMES = (WEIGHTS, REST, CACHE, KERNELS, OVERHEAD, BOTH, PREFILL)
"""All factors in order; ``BOTH`` replaces the two before it."""


class TimedCell(Frozen):
    """One cell: what a decode step reads, and how long it and the whole request took."""

    traffic: Traffic
    tpot_s: float
    e2e_s: float


class WaterfallStep(Frozen):
    """One factor of a waterfall."""

    name: str
    """One of ``NAMES``."""
    factor: float
    """Ratio of speeds."""
    product: float
    """Ratio of speeds: the product of this factor and all before it."""


class Waterfall(Frozen):
    """The factors whose product is a speed-up."""

    steps: tuple[WaterfallStep, ...]
    """In the order of multiplication; the last is prefill's."""
    decode_speedup: float
    """Ratio of the baseline's TPOT to the variant's: the product of all steps but the last."""
    end_to_end_speedup: float
    """Ratio of the baseline's end-to-end time to the variant's: the product of all."""


def timed_cell(limit: Limit, cell: MeasuredCell) -> TimedCell | None:
    """Return the figures of a cell that a waterfall needs; None if no token came after the first."""
    summary = cell.summary
    if summary.tpot_s is None or summary.e2e_s is None:
        return None
    return TimedCell(traffic=limit.traffic, tpot_s=summary.tpot_s.median, e2e_s=summary.e2e_s.median)


def fixed_seconds(points: Sequence[tuple[float, Interval]]) -> float | None:
    """Return the part of a decode step that does not depend on its bytes, in seconds; None if it is undetermined.

    Longer inputs make a step read more keys and values, so it is the intercept of a least-squares line through (bytes,
    TPOT) at several lengths. It is undetermined with only one length, if the intervals of the smallest and largest step
    overlap, or if the intercept is negative.

    Args:
        points: (bytes of a step, TPOT) of one variant under one load at several input lengths.
    """
    ordered = sorted(points, key=lambda point: point[0])
    if len(ordered) < 2 or ordered[0][0] == ordered[-1][0] or ordered[0][1].high >= ordered[-1][1].low:
        return None
    sizes, times = np.array([size for size, _ in ordered]), np.array([time.median for _, time in ordered])
    # Gigabytes, so that the fit's two columns are of like size.
    _, fixed = np.polyfit(sizes / 1e9, times, 1)
    return float(fixed) if fixed >= 0 else None


def waterfall(before: TimedCell, after: TimedCell, fixed_s: float | None) -> Waterfall:
    """Return the factors between the bits of a weight and the measured speed-up.

    Args:
        before: the baseline's cell, of the same shape.
        after: the variant's cell.
        fixed_s: :func:`fixed_seconds` of the baseline; with None, or with a time no shorter than a whole step of
            either, kernels and fixed time are one factor.
    """
    old, new = before.traffic, after.traffic
    bits = old.linear_bytes / new.linear_bytes
    weights = (old.linear_bytes + old.rest_bytes) / (new.linear_bytes + new.rest_bytes)
    everything = old.total_bytes / new.total_bytes
    decode = before.tpot_s / after.tpot_s
    end_to_end = before.e2e_s / after.e2e_s
    products = {WEIGHTS: bits, REST: weights, CACHE: everything}
    if fixed_s is not None and fixed_s < min(before.tpot_s, after.tpot_s):
        products |= {KERNELS: (before.tpot_s - fixed_s) / (after.tpot_s - fixed_s), OVERHEAD: decode}
    else:
        products[BOTH] = decode
    products[PREFILL] = end_to_end
    steps, last = [], 1.0
    for name, product in products.items():
        steps.append(WaterfallStep(name=name, factor=product / last, product=product))
        last = product
    return Waterfall(steps=tuple(steps), decode_speedup=decode, end_to_end_speedup=end_to_end)
