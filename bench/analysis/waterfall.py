"""Split a measured speed-up into factors: fewer bits, 16-bit layers, the KV cache, kernels, fixed time, prefill.

Decoding would become as much faster as the bytes of a step become fewer, if it were limited by memory alone, nothing
but the quantized layers were read, and the kernels were equally good. Each step of a waterfall drops one of these ifs;
the product of all steps is the measured speed-up, exactly. Pure functions.
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
"""Every factor in its order; ``BOTH`` takes the place of the two before it."""


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
    """Ratio of speeds: of this factor and all before it."""


class Waterfall(Frozen):
    """The factors whose product is a speed-up."""

    steps: tuple[WaterfallStep, ...]
    """In the order in which they are multiplied; the last is that of prefill."""
    decode_speedup: float
    """Ratio of the baseline's TPOT to the variant's: the product of all steps but the last."""
    end_to_end_speedup: float
    """Ratio of the baseline's end-to-end time to the variant's: the product of all."""


def timed_cell(limit: Limit, cell: MeasuredCell) -> TimedCell | None:
    """Return what a waterfall needs of a cell; None if no token came after the first."""
    summary = cell.summary
    if summary.tpot_s is None or summary.e2e_s is None:
        return None
    return TimedCell(traffic=limit.traffic, tpot_s=summary.tpot_s.median, e2e_s=summary.e2e_s.median)


def fixed_seconds(points: Sequence[tuple[float, Interval]]) -> float | None:
    """Return the part of a decode step that does not depend on its bytes, in seconds; None if it cannot be told.

    Longer inputs make a step read more keys and values: a line through (bytes, TPOT) of several lengths, by least
    squares, cuts the axis at that part. It cannot be told from one length, where the intervals of the smallest and
    largest step overlap, or where the line cuts below zero.

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
    """Return the factors that lead from the bits of a weight to the measured speed-up.

    Args:
        before: the baseline, of the same shape of load.
        after: the variant.
        fixed_s: from :func:`fixed_seconds` of the baseline; None, or one that is no shorter than a whole step of
            either, leaves kernels and fixed time in one factor.
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
