"""FP8 E4M3: one weight scale per output channel, activations scaled per token at run time. Needs no data."""

from pathlib import Path

from quantize import compressor
from quantize.key import Frozen
from quantize.methods import Architecture, Expected, Samples


class Config(Frozen):
    """Fields of ``method: fp8``."""

    ignore: tuple[str, ...]
    """Layers left in 16 bits: names, or ``re:`` patterns."""


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this method imports."""
    return compressor.NEEDS


def check(config: Config, architecture: Architecture) -> None:
    """Accept every model: a scale per channel fits any shape."""


def expected(config: Config) -> Expected:
    """Return what the checkpoint must look like."""
    return Expected(weight_suffix=".weight", weight_dtype="F8_E4M3", ignore=config.ignore)


def quantize(
    config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples
) -> tuple[str, ...]:
    """Write the FP8 checkpoint of ``source`` to ``target``."""
    from llmcompressor.modifiers.quantization import QuantizationModifier

    modifier = QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=list(config.ignore))
    compressor.oneshot(source, target, [modifier], samples=())
    return ()
