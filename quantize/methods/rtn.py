"""Round to nearest: each weight to the nearest step of its group, nothing else. The baseline every method must beat.

Weight-only, 4 or 8 bits; needs no text.
"""

from pathlib import Path

from quantize.architecture import Architecture
from quantize.methods import Expected, Made, Samples, WeightOnlyConfig


class Config(WeightOnlyConfig):
    """Fields of ``method: rtn``."""


def check(config: Config, architecture: Architecture) -> None:
    """Check that a group size fits the model's layers.

    Raises:
        ValueError: none does.
    """
    config.check_backend("llmcompressor")
    config.used_group_size(architecture)


def expected(config: Config, architecture: Architecture) -> Expected:
    """Return what the checkpoint must look like."""
    return Expected(format=config.format(architecture), ignore=config.ignore, max_kl=config.max_kl)


def quantize(config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples) -> Made:
    """Write the rounded checkpoint of ``source`` to ``target``."""
    return config.run("rtn", architecture, source, target, samples)
