"""What a quantization method is: its config, what it checks, what it promises, how it writes a checkpoint.

One module of :mod:`quantize.methods` per method, with one subclass of `Method`. Importing a method loads no torch: a
method calls its backend, which imports its library when it is called.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, SerializeAsAny

from quantize.architecture import Architecture
from quantize.backend import Name, QuantizeResult, Samples, backend, backends_for
from quantize.estimate import Calibration
from quantize.formats import Activations, Container, Format, integers
from quantize.key import Frozen
from quantize.plugins import class_named
from quantize.texts import CalibrationConfig

GROUP_SIZES = (128, 64, 32)
"""What engines have kernels for; the largest that fits is advised."""
DYNAMIC_INT8 = Activations(type="int", num_bits=8, strategy="token", dynamic=True)
DYNAMIC_FP8 = Activations(type="float", num_bits=8, strategy="token", dynamic=True)


class MethodConfig(Frozen):
    """Fields that every method has that quantizes anything."""

    backend: Name = "llmcompressor"
    """Library that does it; all but llmcompressor run in a toolchain of their own."""
    ignore: tuple[str, ...]
    """Layers left in 16 bits: names, or ``re:`` patterns."""
    max_kl: PositiveFloat
    """Highest mean KL divergence from the source, in the unit of nats per token, at which a checkpoint is published."""

    def check_backend(self, *known: Name) -> None:
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
    max_kl_nats: float = 0.0
    moves_scales: bool = False
    """Whether the method moves factors between layers left in 16 bits, as AWQ and SmoothQuant do."""


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


class CalibratedConfig(MethodConfig):
    """Fields of methods that look at text."""

    calibration: CalibrationConfig


class Method(Frozen, ABC):
    """One method with its checked config."""

    name: str
    """Of its module."""
    config: SerializeAsAny[Frozen]

    def check(self, architecture: Architecture) -> None:
        """Check that the method can work for a model.

        Raises:
            ValueError: it never can; says what to type.
        """

    @abstractmethod
    def expected(self, architecture: Architecture) -> Expected:
        """Return what the written files must look like."""

    @abstractmethod
    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the quantized checkpoint.

        Args:
            architecture: the model's shapes.
            source: folder of the 16-bit checkpoint.
            target: folder to write to.
            samples: calibration samples; none for a method without calibration.
        """

    def as_released(self, names: Collection[str]) -> "Method":
        """Return the method as a release stores it that goes by all of these quantization names."""
        return self

    @property
    def backend(self) -> Name | None:
        """Library that does the work; None if nothing is quantized."""
        return None

    @property
    def calibration(self) -> CalibrationConfig | None:
        """Text that the method looks at; None if it needs none."""
        return None

    @property
    def max_kl(self) -> float | None:
        """Highest KL divergence from the source, nats per token; None for no limit."""
        return None

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory it needs for one decoder layer, besides weights and hidden states."""
        return 0

    def calibrating(self, architecture: Architecture) -> Calibration | None:
        """Return what calibrating takes; None without calibration."""
        text = self.calibration
        if text is None or self.backend is None:
            return None
        tokens = text.n_samples * text.max_seq_len
        working = self.working_bytes(architecture, tokens)
        return Calibration(tokens=tokens, backend=self.backend, working_bytes=working)


class Quantizing(Method):
    """A method that quantizes anything."""

    config: SerializeAsAny[MethodConfig]

    @property
    def backend(self) -> Name:
        """Library that does the work."""
        return self.config.backend

    @property
    def max_kl(self) -> float:
        """Highest KL divergence from the source, nats per token."""
        return self.config.max_kl


class WeightOnly(Quantizing):
    """A method that stores integer weights and keeps activations in 16 bits."""

    config: SerializeAsAny[WeightOnlyConfig]

    def check(self, architecture: Architecture) -> None:
        """Check that the backend can do it and that a group size fits the model's layers.

        Raises:
            ValueError: not so; says what to type.
        """
        self.config.check_backend(*backends_for(self.name))
        self.config.used_group_size(architecture)

    def expected(self, architecture: Architecture) -> Expected:
        """Return what the written files must look like."""
        form = self.config.format(architecture)
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the quantized checkpoint with the backend, and add the config's own notes."""
        run = backend(self.config.backend).methods[self.name]
        result = run(self.config, architecture, source, target, samples)
        return result.model_copy(update={"notes": (*self.config.notes(architecture), *result.notes)})


def method(name: str, fields: Mapping[str, Any]) -> Method:
    """Return method ``name`` with its fields.

    Raises:
        PluginError: there is no such method.
        ValidationError: a field is wrong; locations begin at the field.
    """
    kind = class_named("quantize.methods", name, Method)  # type: ignore[type-abstract]
    config = kind.model_fields["config"].annotation
    assert config is not None
    return kind(name=name, config=config.model_validate(fields))
