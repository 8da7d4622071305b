"""No quantization: the 16-bit checkpoint as it is, linked into place and proven to be 16-bit."""

from pathlib import Path

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult, Samples
from quantize.checkpoint import link_tree
from quantize.key import Frozen
from quantize.method import Expected, Method


class Config(Frozen):
    """Nothing to set."""


class Unquantized(Method):
    """The 16-bit checkpoint as it is."""

    config: Config

    def expected(self, architecture: Architecture) -> Expected:
        """Return what the checkpoint must look like: nothing quantized."""
        return Expected(format=None)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Link every file of ``source`` into ``target``, or copy where the file system cannot link."""
        link_tree(source, target)
        return QuantizeResult()
