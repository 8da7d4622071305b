"""A figure with its interval, as comparisons and predictions return it."""

from quantize.key import Frozen


class Estimate(Frozen):
    """A figure and its interval, 95 % unless said otherwise; in the unit of the figure."""

    value: float
    low: float
    high: float
