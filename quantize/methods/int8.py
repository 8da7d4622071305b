"""INT8 weights and activations: SmoothQuant (Xiao et al., arXiv:2211.10438), then GPTQ.

SmoothQuant moves the range of outlier activation channels into the weights; activations are then rounded per token at
run time, and weights have one scale per output channel.
"""

from pathlib import Path

from pydantic import Field

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult, Samples
from quantize.backends import llmcompressor
from quantize.estimate import hessian_bytes
from quantize.formats import Format
from quantize.method import DYNAMIC_INT8, CalibratedConfig, Expected, Quantizing
from quantize.texts import CalibrationConfig


class Config(CalibratedConfig):
    """Fields of ``method: int8``."""

    smoothing_strength: float = Field(ge=0, le=1)
    """SmoothQuant's alpha, 0 to 1: the part of the activations' range that moves into the weights; 0 turns it off."""
    damp: float = Field(gt=0, lt=1)
    """Share of the Hessian's mean diagonal that GPTQ adds to it."""


class INT8(Quantizing):
    """INT8 weights and activations."""

    config: Config

    @property
    def calibration(self) -> CalibrationConfig:
        """Text that the method is calibrated on."""
        return self.config.calibration

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory of the Hessians of one decoder layer."""
        return hessian_bytes(architecture)

    def check(self, architecture: Architecture) -> None:
        """Check the backend; a scale per channel fits any shape.

        Raises:
            ValueError: the backend does not implement it.
        """
        self.config.check_backend("llmcompressor")

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the checkpoint."""
        form = Format(
            container="compressed-tensors",
            type="int",
            bits=8,
            rows_per_scale=1,
            columns_per_scale=None,
            packed=False,
            activations=DYNAMIC_INT8,
        )
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl, moves_scales=True)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the INT8 checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
        from llmcompressor.modifiers.quantization import GPTQModifier
        from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

        modifiers = [
            GPTQModifier(
                targets="Linear", scheme="W8A8", ignore=list(self.config.ignore), dampening_frac=self.config.damp
            )
        ]
        if self.config.smoothing_strength:
            smooth = SmoothQuantModifier(smoothing_strength=self.config.smoothing_strength)
            modifiers.insert(0, smooth)
        return llmcompressor.oneshot(source, target, modifiers, samples=samples)
