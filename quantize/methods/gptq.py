"""GPTQ (Frantar et al., arXiv:2210.17323): weights rounded column by column, each error pushed onto the columns left.

Weight-only, 4 or 8 bits, with a scale per group of input columns or per output channel.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from quantize import compressor
from quantize.key import Frozen
from quantize.methods import Architecture, CalibrationConfig, Expected, Samples, choose_group_size


class Config(Frozen):
    """Fields of ``method: gptq``."""

    bits: Literal[4, 8]
    symmetric: bool
    group_size: PositiveInt | None
    """Input columns that share a scale; None for one scale per output channel."""
    group_size_fallback: tuple[PositiveInt, ...]
    damp: float = Field(gt=0, lt=1)
    act_order: Literal["static", "group"] | None
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
    """Write the GPTQ checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    from llmcompressor.modifiers.quantization import GPTQModifier

    size = choose_group_size(config.group_size, config.group_size_fallback, architecture)
    modifier = GPTQModifier(
        config_groups=compressor.weight_only_groups(config.bits, size, symmetric=config.symmetric),
        ignore=list(config.ignore),
        dampening_frac=config.damp,
        actorder=config.act_order,
    )
    compressor.oneshot(source, target, [modifier], samples=samples)
    return compressor.group_note(config.group_size, size)
