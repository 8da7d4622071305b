"""AutoRound (Cheng et al., arXiv:2309.05516): rounding and clipping learned by signed gradient descent, per block.

Weight-only, 4 or 8 bits. The most accurate of the 4-bit methods and the slowest; meant for a GPU.
"""

from pydantic import PositiveInt

from quantize.architecture import Architecture
from quantize.method import CalibratedConfig, WeightOnly, WeightOnlyConfig
from quantize.texts import CalibrationConfig


class Config(WeightOnlyConfig, CalibratedConfig):
    """Fields of ``method: autoround``."""

    iters: PositiveInt
    """Steps of descent for each decoder layer."""
    batch_size: PositiveInt
    """Samples per step."""


class AutoRound(WeightOnly):
    """AutoRound."""

    config: Config

    @property
    def calibration(self) -> CalibrationConfig:
        """Text that the method looks at."""
        return self.config.calibration

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory of rounding values, their gradients and the best so far, in float32."""
        return 12 * architecture.layer_parameters()
