"""Round to nearest: each weight is rounded to the nearest step of its group. Other methods are compared with it.

Weight-only, 4 or 8 bits; needs no text.
"""

from quantize.architecture import Architecture
from quantize.method import Expected, WeightOnly, WeightOnlyConfig


class Config(WeightOnlyConfig):
    """Fields of ``method: rtn``."""


class RoundToNearest(WeightOnly):
    """Round to nearest."""

    config: Config

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the written files."""
        return super().expected(architecture).model_copy(update={"nearest": True})
