"""GPTQ (Frantar et al., arXiv:2210.17323): weights rounded column by column, each error moved to the remaining columns.

Weight-only, 4 or 8 bits, with a scale per group of input columns or per output channel. llm-compressor writes it as
compressed-tensors; GPTQModel and AutoGPTQ write the ``gptq`` container of Qwen's own releases.
"""

from typing import Literal

from pydantic import Field

from quantize import native
from quantize.architecture import Architecture
from quantize.estimate import hessian_bytes
from quantize.method import CalibratedConfig, Expected, WeightOnly, WeightOnlyConfig
from quantize.texts import CalibrationConfig


class Config(WeightOnlyConfig, CalibratedConfig):
    """Fields of ``method: gptq``."""

    damp: float = Field(gt=0, lt=1)
    """Share of the Hessian's mean diagonal that is added to it."""
    act_order: Literal["static", "group"] | None
    """Process columns in order of activation: groups keep their columns (static) or follow the order (group)."""


class GPTQ(WeightOnly):
    """GPTQ."""

    config: Config

    @property
    def calibration(self) -> CalibrationConfig:
        """Text that the method is calibrated on."""
        return self.config.calibration

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory of the Hessians of one decoder layer."""
        return hessian_bytes(architecture)

    def check(self, architecture: Architecture) -> None:
        """Check that the backend implements it and that a group size fits the model's layers.

        Raises:
            ValueError: one of them does not; says what to type.
        """
        super().check(architecture)
        if self.config.act_order == "group" and self.config.backend == "llmcompressor":
            raise ValueError("llm-compressor has dropped act_order=group; use quant.act_order=static or a gptq backend")
        if self.config.container == "gptq":
            native.check_gptq(self.config)

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the checkpoint."""
        form = self.config.format(architecture)
        if form.container == "gptq":
            form = form.model_copy(update={"act_order": self.config.act_order == "group"})
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl)
