"""GPTQ (Frantar et al., arXiv:2210.17323): weights rounded column by column, each error pushed onto the columns left.

Weight-only, 4 or 8 bits, with a scale per group of input columns or per output channel.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from quantize import compressor
from quantize.methods import Architecture, Expected, Samples, WeightOnlyConfig


class Config(WeightOnlyConfig):
    """Fields of ``method: gptq``."""

    damp: float = Field(gt=0, lt=1)
    """Share of the Hessian's mean diagonal that is added to it."""
    act_order: Literal["static", "group"] | None
    """Order of the columns by how much they are activated; None keeps the model's."""


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
    """Write the GPTQ checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    from llmcompressor.modifiers.quantization import GPTQModifier

    modifier = GPTQModifier(
        config_groups=compressor.weight_only_groups(config, architecture),
        ignore=list(config.ignore),
        dampening_frac=config.damp,
        actorder=config.act_order,
    )
    compressor.oneshot(source, target, [modifier], samples=samples)
    return config.notes(architecture)
