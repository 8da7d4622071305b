"""No quantization: the unchanged 16-bit checkpoint, linked into place and proven to be 16-bit."""

from pathlib import Path

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult, Samples
from quantize.checkpoint import link_tree
from quantize.key import Frozen
from quantize.method import Expected, Method


class Config(Frozen):
    """No fields."""


class Unquantized(Method):
    """The unchanged 16-bit checkpoint."""

    config: Config

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the checkpoint: nothing quantized."""
        return Expected(format=None)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Link every file of ``source`` into ``target``, or copy where the file system cannot link."""
        link_tree(source, target)
        return QuantizeResult()
