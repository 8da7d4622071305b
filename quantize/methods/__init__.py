"""One module per quantization method, named by ``method:`` in a quant config.

Each module holds

- ``Config``: its fields, frozen and checked; all but ``none`` build on :class:`MethodConfig`;
- ``check(config, architecture) -> None``: raises ``ValueError`` with the reason when it can never work for the model;
- ``expected(config, architecture) -> Expected``: what the written files must look like;
- ``quantize(config, architecture, source, target, samples) -> Made``: does the work and says what is worth knowing.

Importing a method loads no torch: a method calls its backend, which imports its library when it is called.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from quantize.architecture import Architecture
from quantize.formats import Activations, Container, Format, integers
from quantize.key import Frozen
from quantize.texts import CalibrationConfig

Samples = Sequence[Sequence[int]]
"""Calibration samples as token ids."""
Backend = Literal["llmcompressor", "gptqmodel", "auto-gptq", "autoawq"]
GROUP_SIZES = (128, 64, 32)
DYNAMIC_INT8 = Activations(type="int", num_bits=8, strategy="token", dynamic=True)
DYNAMIC_FP8 = Activations(type="float", num_bits=8, strategy="token", dynamic=True)


class MethodConfig(Frozen):
    """Fields that every method has that quantizes anything."""

    backend: Backend = "llmcompressor"
    """Library that does it; all but llmcompressor run in a toolchain of their own."""
    ignore: tuple[str, ...]
    """Layers left in 16 bits: names, or ``re:`` patterns."""
    max_kl: PositiveFloat
    """A checkpoint whose mean KL divergence from its source is above this, nats per token, is not published."""

    def check_backend(self, *known: Backend) -> None:
        """Check that the method can be done by the backend.

        Raises:
            ValueError: it cannot; names those that can.
        """
        if self.backend not in known:
            raise ValueError(f"quant.backend={self.backend} does not do this method; known are {', '.join(known)}")


class Expected(Frozen):
    """What a finished checkpoint must look like, checked against its files."""

    format: Format | None
    """How the quantized layers are stored; None when nothing is quantized."""
    ignore: tuple[str, ...] = ()
    """Layers that stay in 16 bits: names, or ``re:`` patterns."""
    max_kl: float = 0.0
    moves_scales: bool = False
    """Whether the method moves factors between layers left in 16 bits, as AWQ and SmoothQuant do."""


class Made(Frozen):
    """What is worth knowing of a checkpoint that was just written."""

    notes: tuple[str, ...] = ()
    """What is not as configured, in sentences."""
    experts_reached: float | None = None
    """Share of experts that the router itself chose for calibration tokens; None without experts or calibration."""


def choose_group_size(
    wanted: int | None, fallback: Sequence[int | None], architecture: Architecture, *, advise: bool = True
) -> int | None:
    """Return the first group size, of the wanted one and its fallbacks, that divides every quantized layer.

    None stands for one scale per output channel, which always fits.

    Args:
        wanted: columns that share a scale.
        fallback: sizes tried in order where that does not divide every layer.
        architecture: the model's shapes.
        advise: whether the method can take another group size at all.

    Raises:
        ValueError: none fits; says which layer refuses and what to type.
    """
    columns = {name: width for name, (_, width) in architecture.linear_shapes().items()}
    for size in (wanted, *fallback):
        if size is None or all(width % size == 0 for width in columns.values()):
            return size
    assert wanted is not None
    layer, width = next((layer, width) for layer, width in columns.items() if width % wanted)
    fits = [size for size in GROUP_SIZES if all(width % size == 0 for width in columns.values())]
    typed = f"quant.group_size={fits[0]}" if fits else "quant.group_size=null (one scale per channel)"
    advice = f"; try {typed}" if advise else ""
    raise ValueError(f"group size {wanted} does not divide the {width} input columns of {layer}{advice}")


class WeightOnlyConfig(MethodConfig):
    """Fields that methods share whose weights are integers and whose activations stay in 16 bits."""

    bits: Literal[4, 8]
    symmetric: bool
    group_size: PositiveInt | None
    """Input columns that share a scale; None for one scale per output channel."""
    group_size_fallback: tuple[PositiveInt | None, ...]
    """Tried in order where ``group_size`` does not divide every layer; empty to allow no other."""

    @property
    def container(self) -> Container:
        """The container that the backend writes: AutoAWQ its own, GPTQ libraries theirs."""
        return "compressed-tensors" if self.backend == "llmcompressor" else "gptq"

    def used_group_size(self, architecture: Architecture) -> int | None:
        """Return the group size that fits the model; see :func:`choose_group_size`.

        Raises:
            ValueError: none does.
        """
        return choose_group_size(self.group_size, self.group_size_fallback, architecture)

    def used_symmetric(self, architecture: Architecture) -> bool:
        """Return whether weights go without zero points: as configured, but always for a model with experts.

        Engines that run experts from a compressed-tensors checkpoint take symmetric weights only.
        """
        return self.symmetric or (architecture.experts > 0 and self.container == "compressed-tensors")

    def notes(self, architecture: Architecture) -> tuple[str, ...]:
        """Return what is not as configured, for the manifest."""
        size = self.used_group_size(architecture)
        notes = []
        if size != self.group_size:
            used = "one scale per channel" if size is None else f"group size {size}"
            notes.append(f"{used} instead of group size {self.group_size}, which does not divide every layer")
        if self.used_symmetric(architecture) != self.symmetric:
            notes.append("symmetric instead of asymmetric: engines take experts only without zero points")
        return tuple(notes)

    def format(self, architecture: Architecture) -> Format:
        """Return how the quantized layers are stored."""
        return integers(
            self.bits,
            self.used_group_size(architecture),
            symmetric=self.used_symmetric(architecture),
            container=self.container,
        )

    def run(self, method: str, architecture: Architecture, source: Path, target: Path, samples: Samples) -> Made:
        """Have the backend do the method, and return what it says with this config's own notes."""
        backend = importlib.import_module(f"quantize.backends.{self.backend.replace('-', '_')}")
        made: Made = getattr(backend, method)(self, architecture, source, target, samples)
        return made.model_copy(update={"notes": (*self.notes(architecture), *made.notes)})


class CalibratedConfig(MethodConfig):
    """Fields of methods that look at text."""

    calibration: CalibrationConfig
