"""What a library that quantizes looks like to the methods: where it runs, and what it can do.

One module of :mod:`quantize.backends` per library, with a constant ``BACKEND``. A backend runs inside its toolchain's
interpreter, imports its library inside its functions, and nothing of ``bench`` anywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from quantize.architecture import Architecture
from quantize.key import Frozen
from quantize.plugins import module_named, names, nearest


def backends() -> list[str]:
    """Return the names of all backends, as in ``quant.backend``."""
    return [name.replace("_", "-") for name in names("quantize.backends")]


def _known(name: str) -> str:
    """Return ``name``.

    Raises:
        ValueError: no backend has it; names the nearest and the known ones.
    """
    if name not in backends():
        raise ValueError(f"no backend '{name}'{nearest(name, backends())} Known: {', '.join(backends())}")
    return name


Name = Annotated[str, AfterValidator(_known)]
"""A backend, as in ``quant.backend``."""
Samples = Sequence[Sequence[int]]
"""Calibration samples as token ids."""


class QuantizeResult(Frozen):
    """What is worth knowing of a checkpoint that was just written."""

    notes: tuple[str, ...] = ()
    """What is not as configured, in sentences."""
    experts_reached: float | None = None
    """Share of experts that the router itself chose for calibration tokens; None without experts or calibration."""


QuantizeFunction = Callable[[Any, Architecture, Path, Path, Samples], QuantizeResult]
"""Writes a complete checkpoint folder from (method's config, shapes, source, target, samples)."""


@dataclass(frozen=True)
class Backend:
    """One library."""

    toolchain: str
    """Environment that it runs in."""
    packages: tuple[str, ...]
    """Packages that it imports."""
    methods: Mapping[str, QuantizeFunction]
    """What it can do, by name of the method."""


def backend(name: str) -> Backend:
    """Return the backend called ``name``, as in ``quant.backend``.

    Raises:
        PluginError: there is none.
    """
    library: Backend = module_named("quantize.backends", name.replace("-", "_")).BACKEND
    return library


def backends_for(method: str) -> list[str]:
    """Return the names of the backends that do a method."""
    return [name for name in backends() if method in backend(name).methods]
