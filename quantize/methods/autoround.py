"""AutoRound (Cheng et al., arXiv:2309.05516): rounding and clipping learned by signed gradient descent, per block.

Weight-only, 4 or 8 bits. The most accurate and the slowest of the 4-bit methods, intended for a GPU.
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
        """Text that the method is calibrated on."""
        return self.config.calibration

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory of rounding values, their gradients and the best values so far, in float32."""
        return 12 * architecture.layer_parameters()
