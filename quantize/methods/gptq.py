"""GPTQ (Frantar et al., arXiv:2210.17323): weights rounded column by column, each error pushed onto the columns left.

Weight-only, 4 or 8 bits, with a scale per group of input columns or per output channel. llm-compressor writes it as
compressed-tensors; GPTQModel and AutoGPTQ write the ``gptq`` container, as Qwen's own releases have it.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from quantize import native
from quantize.architecture import Architecture
from quantize.methods import CalibratedConfig, Expected, Made, Samples, WeightOnlyConfig


class Config(WeightOnlyConfig, CalibratedConfig):
    """Fields of ``method: gptq``."""

    damp: float = Field(gt=0, lt=1)
    """Share of the Hessian's mean diagonal that is added to it."""
    act_order: Literal["static", "group"] | None
    """Columns in the order of how much they are activated: groups stay as they are (static) or follow the order."""


def check(config: Config, architecture: Architecture) -> None:
    """Check that the backend can do it and that a group size fits the model's layers.

    Raises:
        ValueError: not so; says what to type.
    """
    config.check_backend("llmcompressor", "gptqmodel", "auto-gptq")
    if config.act_order == "group" and config.backend == "llmcompressor":
        raise ValueError("llm-compressor has dropped act_order=group; use quant.act_order=static or a gptq backend")
    config.used_group_size(architecture)
    if config.container == "gptq":
        native.check_gptq(config)


def expected(config: Config, architecture: Architecture) -> Expected:
    """Return what the checkpoint must look like."""
    form = config.format(architecture)
    if form.container == "gptq":
        form = form.model_copy(update={"act_order": config.act_order == "group"})
    return Expected(format=form, ignore=config.ignore, max_kl=config.max_kl)


def quantize(config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples) -> Made:
    """Write the GPTQ checkpoint of ``source`` to ``target``, calibrated on ``samples``."""
    return config.run("gptq", architecture, source, target, samples)
