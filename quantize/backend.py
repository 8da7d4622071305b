"""The interface of quantization libraries: where each runs, and which methods it implements.

There is one module of :mod:`quantize.backends` per library, with a constant ``BACKEND``. A backend runs in its
toolchain's interpreter, imports its library inside its functions, and imports nothing from ``bench``.
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
        ValueError: there is no such backend; lists similar and known names.
    """
    if name not in backends():
        raise ValueError(f"no backend '{name}'{nearest(name, backends())} Known: {', '.join(backends())}")
    return name


Name = Annotated[str, AfterValidator(_known)]
"""A backend, as in ``quant.backend``."""
Samples = Sequence[Sequence[int]]
"""Calibration samples as token ids."""


class QuantizeResult(Frozen):
    """Facts about a checkpoint that was just written."""

    notes: tuple[str, ...] = ()
    """Differences from the config, in sentences."""
    experts_reached: float | None = None
    """Share of experts that the router chose for calibration tokens; None without experts or calibration."""


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
    """Its functions, by name of the method."""


def backend(name: str) -> Backend:
    """Return the backend called ``name``, as in ``quant.backend``.

    Raises:
        PluginError: there is no such backend.
    """
    library: Backend = module_named("quantize.backends", name).BACKEND
    return library


def backends_for(method: str) -> list[str]:
    """Return the names of the backends that implement a method."""
    return [name for name in backends() if method in backend(name).methods]
