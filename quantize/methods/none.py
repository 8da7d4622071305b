"""No quantization: the 16-bit checkpoint as it is, linked into place and proven to be 16-bit."""

from pathlib import Path

from quantize.architecture import Architecture
from quantize.checkpoint import link_tree
from quantize.key import Frozen
from quantize.methods import Expected, Made, Samples


class Config(Frozen):
    """Nothing to set."""


def check(config: Config, architecture: Architecture) -> None:
    """Accept every model."""


def expected(config: Config, architecture: Architecture) -> Expected:
    """Return what the checkpoint must look like: nothing quantized."""
    return Expected(format=None)


def quantize(config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples) -> Made:
    """Link every file of ``source`` into ``target``, or copy where the file system cannot link."""
    link_tree(source, target)
    return Made()
