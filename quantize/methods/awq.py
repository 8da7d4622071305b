"""AWQ (Lin et al., arXiv:2306.00978): channels that carry large activations are scaled up before rounding.

Weight-only, 4 or 8 bits; the scales are found by a grid search that minimizes each block's output error.
"""

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from quantize import compressor
from quantize.key import Frozen
from quantize.methods import Architecture, CalibrationConfig, Expected, Samples, choose_group_size


class Config(Frozen):
    """Fields of ``method: awq``."""

    bits: Literal[4, 8]
    symmetric: bool
    group_size: PositiveInt | None
    """Input columns that share a scale; None for one scale per output channel."""
    group_size_fallback: tuple[PositiveInt, ...]
    n_grid: PositiveInt
    """Scales tried per group of layers."""
    ignore: tuple[str, ...]
    calibration: CalibrationConfig


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this method imports."""
    return compressor.NEEDS


def check(config: Config, architecture: Architecture) -> None:
    """Check that a group size fits the model's layers.

    Raises:
        ValueError: none does.
    """
    choose_group_size(config.group_size, config.group_size_fallback, architecture)


def expected(config: Config) -> Expected:
    """Return what the checkpoint must look like."""
    return Expected(weight_suffix=".weight_packed", weight_dtype="I32", ignore=config.ignore)


def quantize(
    config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples
) -> tuple[str, ...]:
    """Write the AWQ checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    size = choose_group_size(config.group_size, config.group_size_fallback, architecture)
    # transformers 5.17 drops the zero points of stacked experts when it loads them, and then refuses the checkpoint.
    symmetric = config.symmetric or architecture.experts > 0
    groups = compressor.weight_only_groups(config.bits, size, symmetric=symmetric)
    modifiers = [
        AWQModifier(n_grid=config.n_grid),
        QuantizationModifier(config_groups=groups, ignore=list(config.ignore)),
    ]
    with compressor.no_pinned_memory_without_accelerator():
        compressor.oneshot(source, target, modifiers, samples=samples)
    notes = compressor.group_note(config.group_size, size)
    if symmetric != config.symmetric:
        notes += ("symmetric instead of asymmetric: zero points of experts cannot be loaded back",)
    return notes
