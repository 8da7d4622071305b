"""AWQ (Lin et al., arXiv:2306.00978): channels that carry large activations are scaled up before rounding.

Weight-only, 4 or 8 bits; the scales are found by a grid search that minimizes each block's output error.
llm-compressor writes it as compressed-tensors; AutoAWQ and GPTQModel write the ``awq`` container.
"""

from pathlib import Path

from pydantic import PositiveInt

from quantize import native
from quantize.architecture import Architecture
from quantize.formats import Container
from quantize.methods import CalibratedConfig, Expected, Made, Samples, WeightOnlyConfig


class Config(WeightOnlyConfig, CalibratedConfig):
    """Fields of ``method: awq``."""

    n_grid: PositiveInt
    """Scales tried per group of layers."""

    @property
    def container(self) -> Container:
        """The container that the backend writes."""
        return "compressed-tensors" if self.backend == "llmcompressor" else "awq"


def check(config: Config, architecture: Architecture) -> None:
    """Check that the backend can do it and that a group size fits the model's layers.

    Raises:
        ValueError: not so; says what to type.
    """
    config.check_backend("llmcompressor", "gptqmodel", "autoawq")
    config.used_group_size(architecture)
    if config.container == "awq":
        native.check_awq(config, architecture)


def expected(config: Config, architecture: Architecture) -> Expected:
    """Return what the checkpoint must look like."""
    return Expected(format=config.format(architecture), ignore=config.ignore, max_kl=config.max_kl, moves_scales=True)


def quantize(config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples) -> Made:
    """Write the AWQ checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    return config.run("awq", architecture, source, target, samples)
