"""FP4 E2M1 weights and activations in microscaled groups, for kernels of NVIDIA Blackwell and AMD MI350 GPUs.

``nvfp4``: groups of 16 with FP8 scales under one float scale per matrix, activation ranges fixed by calibration.
``mxfp4``: groups of 32 with power-of-two scales (OCP Microscaling Formats v1.0); needs no text.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult, Samples
from quantize.backends import llmcompressor
from quantize.formats import Activations, Format
from quantize.method import Expected, MethodConfig, Quantizing, choose_group_size
from quantize.texts import CalibrationConfig

GROUP = {"nvfp4": 16, "mxfp4": 32}
"""Columns that share a scale, fixed by the formats: NVIDIA's NVFP4 and OCP's MX."""


class Config(MethodConfig):
    """Fields of ``method: fp4``."""

    scheme: Literal["nvfp4", "mxfp4"]
    calibration: CalibrationConfig | None = None
    """Text for the activation ranges of ``nvfp4``."""

    @model_validator(mode="after")
    def _calibrated_when_nvfp4(self) -> Self:
        if (self.scheme == "nvfp4") != (self.calibration is not None):
            raise ValueError("scheme nvfp4 needs calibration, and mxfp4 does not use it")
        return self


class FP4(Quantizing):
    """FP4 weights and activations."""

    config: Config

    @property
    def calibration(self) -> CalibrationConfig | None:
        """Text for the activation scales; None where they are computed at run time."""
        return self.config.calibration

    def check(self, architecture: Architecture) -> None:
        """Check that the scheme's groups fit the model's layers.

        Raises:
            ValueError: they do not.
        """
        self.config.check_backend("llmcompressor")
        choose_group_size(GROUP[self.config.scheme], (), architecture, advise=False)

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the checkpoint."""
        nvfp4 = self.config.scheme == "nvfp4"
        group = GROUP[self.config.scheme]
        inputs = Activations(
            type="float",
            num_bits=4,
            strategy="tensor_group" if nvfp4 else "group",
            dynamic="local" if nvfp4 else True,
            group_size=group,
        )
        form = Format(
            container="compressed-tensors",
            type="float",
            bits=4,
            rows_per_scale=1,
            columns_per_scale=group,
            scale="e4m3" if nvfp4 else "e8m0",
            packed=True,
            activations=inputs,
        )
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl, nearest=True)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the FP4 checkpoint of ``source`` to ``target``."""
        if self.config.scheme == "mxfp4":
            llmcompressor.without_data(source, target, "MXFP4", self.config.ignore)
            return QuantizeResult()
        from llmcompressor.modifiers.quantization import QuantizationModifier

        modifier = QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=list(self.config.ignore))
        return llmcompressor.oneshot(source, target, [modifier], samples=samples)
