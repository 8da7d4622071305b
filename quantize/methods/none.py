"""No quantization: the 16-bit checkpoint as it is, linked into place and proven to be 16-bit."""

import os
import shutil
from pathlib import Path

from quantize.key import Frozen
from quantize.methods import Architecture, Expected, Samples


class Config(Frozen):
    """Nothing to set."""


def needs(config: Config) -> tuple[str, ...]:
    """Return the packages this method imports: none."""
    return ()


def check(config: Config, architecture: Architecture) -> None:
    """Accept every model."""


def expected(config: Config) -> Expected:
    """Return what the checkpoint must look like: nothing quantized."""
    return Expected(weight_suffix="", weight_dtype="BF16")


def quantize(
    config: Config, architecture: Architecture, source: Path, target: Path, samples: Samples
) -> tuple[str, ...]:
    """Link every file of ``source`` into ``target``, or copy where the file system cannot link."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copy2(file, place)
    return ()
