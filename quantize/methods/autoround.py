"""AutoRound (Cheng et al., arXiv:2309.05516): rounding and clipping learned by signed gradient descent, per block.

Weight-only, 4 or 8 bits. The most accurate of the 4-bit methods and the slowest; meant for a GPU.
"""

from pathlib import Path

from pydantic import PositiveInt

from quantize.architecture import Architecture
from quantize.methods import CalibratedConfig, Expected, Made, Samples, WeightOnlyConfig


class Config(WeightOnlyConfig, CalibratedConfig):
    """Fields of ``method: autoround``."""

    iters: PositiveInt
    """Steps of descent for each decoder layer."""
    batch_size: PositiveInt
    """Samples per step."""


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
    """Write the AutoRound checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    return config.run("autoround", architecture, source, target, samples)
