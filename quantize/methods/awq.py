"""AWQ (Lin et al., arXiv:2306.00978): channels with large activations are scaled up before rounding.

Weight-only, 4 or 8 bits; the scales are found by a grid search that minimizes each block's output error.
llm-compressor writes it as compressed-tensors; AutoAWQ and GPTQModel write the ``awq`` container.
"""

from pydantic import PositiveInt

from quantize import native
from quantize.architecture import Architecture
from quantize.formats import Container
from quantize.method import CalibratedConfig, Expected, WeightOnly, WeightOnlyConfig
from quantize.texts import CalibrationConfig


class Config(WeightOnlyConfig, CalibratedConfig):
    """Fields of ``method: awq``."""

    n_grid: PositiveInt
    """Scales tried per group of layers."""

    @property
    def container(self) -> Container:
        """The container that the backend writes."""
        return "compressed-tensors" if self.backend == "llmcompressor" else "awq"


class AWQ(WeightOnly):
    """AWQ."""

    config: Config

    @property
    def calibration(self) -> CalibrationConfig:
        """Text that the method is calibrated on."""
        return self.config.calibration

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory of the input of every expert's last layer."""
        return 2 * tokens * architecture.moe_intermediate_size * architecture.experts

    def check(self, architecture: Architecture) -> None:
        """Check that the backend implements it and that a group size fits the model's layers.

        Raises:
            ValueError: one of them does not; says what to type.
        """
        super().check(architecture)
        if self.config.container == "awq":
            native.check_awq(self.config, architecture)

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the checkpoint."""
        return Expected(
            format=self.config.format(architecture),
            ignore=self.config.ignore,
            max_kl_nats=self.config.max_kl,
            moves_scales=True,
        )
