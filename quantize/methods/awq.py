"""AWQ (Lin et al., arXiv:2306.00978): channels that carry large activations are scaled up before rounding.

Weight-only, 4 or 8 bits; the scales are found by a grid search that minimizes each block's output error.
"""

from pathlib import Path

from pydantic import PositiveInt

from quantize import compressor
from quantize.methods import Architecture, Expected, Samples, WeightOnlyConfig


class Config(WeightOnlyConfig):
    """Fields of ``method: awq``."""

    n_grid: PositiveInt
    """Scales tried per group of layers."""


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this method imports."""
    return compressor.NEEDS


def check(config: Config, architecture: Architecture) -> None:
    """Check that a group size fits the model's layers.

    Raises:
        ValueError: none does.
    """
    config.used_group_size(architecture)


def expected(config: Config) -> Expected:
    """Return what the checkpoint must look like."""
    return config.expected()


def quantize(
    config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples
) -> tuple[str, ...]:
    """Write the AWQ checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    modifiers = [
        AWQModifier(n_grid=config.n_grid),
        QuantizationModifier(
            config_groups=compressor.weight_only_groups(config, architecture), ignore=list(config.ignore)
        ),
    ]
    with compressor.no_pinned_memory_without_accelerator():
        compressor.oneshot(source, target, modifiers, samples=samples)
    return config.notes(architecture)
