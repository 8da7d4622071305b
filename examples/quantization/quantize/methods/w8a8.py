"""INT8 weights with one scale per output channel, rounded to nearest; activations are rounded per token at run time.

A baseline for SmoothQuant and GPTQ in ``int8-w8a8``. It needs no text.
"""

from pathlib import Path

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult, Samples
from quantize.backends import llmcompressor
from quantize.formats import Format
from quantize.method import DYNAMIC_INT8, Expected, MethodConfig, Quantizing


class Config(MethodConfig):
    """Fields of ``method: w8a8``: those of every method."""


class W8A8(Quantizing):
    """INT8 weights and activations, rounded to nearest."""

    config: Config

    def check(self, architecture: Architecture) -> None:
        """Check the backend; a scale per channel fits any shape.

        Raises:
            ValueError: the backend does not support it.
        """
        self.config.check_backend("llmcompressor")

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected contents of the files; the proof compares them with it."""
        form = Format(
            container="compressed-tensors",
            type="int",
            bits=8,
            rows_per_scale=1,
            columns_per_scale=None,
            packed=False,
            activations=DYNAMIC_INT8,
        )
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the checkpoint, shard by shard."""
        llmcompressor.without_data(source, target, "W8A8", self.config.ignore)
        return QuantizeResult()
