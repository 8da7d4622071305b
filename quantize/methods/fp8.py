"""FP8 E4M3 weights and activations (Micikevicius et al., arXiv:2209.05433).

Three schemes: a scale per output channel with activations scaled per token at run time (``dynamic``); one scale per
matrix with activation scales fixed by calibration (``static``); a scale per 128 x 128 block as in Qwen's and DeepSeek's
own releases (``block``). Only ``static`` needs text.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult, Samples
from quantize.backends import llmcompressor
from quantize.formats import Activations, Format
from quantize.method import DYNAMIC_FP8, Expected, Method, MethodConfig, Quantizing
from quantize.texts import CalibrationConfig

BLOCK = 128
"""Edge of a block that shares a scale, as in the releases of DeepSeek and Qwen."""


class Config(MethodConfig):
    """Fields of ``method: fp8``."""

    scheme: Literal["dynamic", "static", "block"]
    calibration: CalibrationConfig | None = None
    """Text for the activation scales of ``static``."""

    @model_validator(mode="after")
    def _calibrated_when_static(self) -> Self:
        if (self.scheme == "static") != (self.calibration is not None):
            raise ValueError("scheme static needs calibration, and the other schemes do not use it")
        return self


class FP8(Quantizing):
    """FP8 weights and activations."""

    config: Config

    @property
    def calibration(self) -> CalibrationConfig | None:
        """Text for the activation scales; None where they are computed at run time."""
        return self.config.calibration

    def as_released(self, names: Collection[str]) -> Method:
        """Return the block scheme if a release also has its name, as Qwen's releases do."""
        if "fp8-block" not in names:
            return self
        return self.model_copy(update={"config": self.config.model_copy(update={"scheme": "block"})})

    def check(self, architecture: Architecture) -> None:
        """Check that blocks fit the model's layers; scales per channel or matrix fit any shape.

        Raises:
            ValueError: a layer is not a whole number of blocks, which no engine's block kernels support.
        """
        self.config.check_backend("llmcompressor")
        if self.config.scheme != "block":
            return
        for name, shape in architecture.linear_shapes().items():
            if any(width % BLOCK for width in shape):
                raise ValueError(
                    f"{name} is {shape[0]} x {shape[1]}, not a whole number of {BLOCK} x {BLOCK} blocks; use quant=fp8"
                )

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the checkpoint."""
        shapes = {"dynamic": (1, None), "static": (None, None), "block": (BLOCK, BLOCK)}
        inputs = {
            "dynamic": DYNAMIC_FP8,
            "static": Activations(type="float", num_bits=8, strategy="tensor", dynamic=False),
            "block": Activations(type="float", num_bits=8, strategy="group", dynamic=True, group_size=BLOCK),
        }
        rows, columns = shapes[self.config.scheme]
        form = Format(
            container="fp8" if self.config.scheme == "block" else "compressed-tensors",
            type="float",
            bits=8,
            rows_per_scale=rows,
            columns_per_scale=columns,
            packed=False,
            activations=inputs[self.config.scheme],
        )
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl, nearest=True)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the FP8 checkpoint of ``source`` to ``target``."""
        if self.config.scheme == "static":
            from llmcompressor.modifiers.quantization import QuantizationModifier

            modifier = QuantizationModifier(targets="Linear", scheme="FP8", ignore=list(self.config.ignore))
            return llmcompressor.oneshot(source, target, [modifier], samples=samples)
        llmcompressor.without_data(
            source, target, "FP8_BLOCK" if self.config.scheme == "block" else "FP8_DYNAMIC", self.config.ignore
        )
        if self.config.scheme == "block":
            llmcompressor.as_native_fp8(target, BLOCK)
        return QuantizeResult()
