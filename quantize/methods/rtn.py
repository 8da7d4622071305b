"""Round to nearest: each weight to the nearest step of its group, nothing else. The baseline every method must beat.

Weight-only, 4 or 8 bits; needs no text.
"""

from quantize.architecture import Architecture
from quantize.method import WeightOnly, WeightOnlyConfig


class Config(WeightOnlyConfig):
    """Fields of ``method: rtn``."""


class RoundToNearest(WeightOnly):
    """Round to nearest."""

    config: Config

    def check(self, architecture: Architecture) -> None:
        """Check that a group size fits the model's layers.

        Raises:
            ValueError: none does.
        """
        self.config.check_backend("llmcompressor")
        self.config.used_group_size(architecture)
