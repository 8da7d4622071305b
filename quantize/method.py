"""The interface of a quantization method: its config, its checks, its expected result, and how it writes a checkpoint.

There is one module of :mod:`quantize.methods` per method, with one subclass of `Method`. Importing a method loads no
torch: a method calls its backend, which imports its library when it is called.
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
from quantize.scheme import Scheme
from quantize.texts import CalibrationConfig

GROUP_SIZES = (128, 64, 32)
"""Group sizes that engines have kernels for; messages suggest the largest that fits."""
DYNAMIC_INT8 = Activations(type="int", num_bits=8, strategy="token", dynamic=True)
DYNAMIC_FP8 = Activations(type="float", num_bits=8, strategy="token", dynamic=True)


class MethodConfig(Frozen):
    """Fields of every method that quantizes anything."""

    backend: Name = "llmcompressor"
    """Library that implements it; all but llmcompressor run in their own toolchain."""
    ignore: tuple[str, ...]
    """Layers left in 16 bits: names, or ``re:`` patterns."""
    max_kl: PositiveFloat | None
    """Highest mean KL divergence from the source at which a checkpoint is published, in the unit of nats per token.

    None for a limit relative to rounding to nearest; see :mod:`quantize.ceiling`."""

    def check_backend(self, *backends: Name) -> None:
        """Check that the backend implements the method.

        Raises:
            ValueError: it does not; lists those that do.
        """
        if self.backend not in backends:
            raise ValueError(
                f"quant.backend={self.backend} does not implement this method; use one of {', '.join(backends)}"
            )


class Expected(Frozen):
    """The expected form of a finished checkpoint, which its files are checked against."""

    format: Format | None
    """How the quantized layers are stored; None when nothing is quantized."""
    mixed: Scheme | None = None
    """How each layer of a release is stored that mixes formats, of which `format` is one."""
    ignore: tuple[str, ...] = ()
    """Layers that stay in 16 bits: names, or ``re:`` patterns."""
    max_kl_nats: float | None = None
    """Highest accepted KL divergence from the source; None for a limit relative to rounding to nearest."""
    nearest: bool = False
    """Whether each weight is rounded to the nearest value, as without calibration."""
    moves_scales: bool = False
    """Whether the method moves factors between layers left in 16 bits, as AWQ and SmoothQuant do."""

    def form_of(self, layer: str) -> Format:
        """Return how a quantized layer is stored."""
        form = self.mixed.of(layer) if self.mixed else self.format
        assert form is not None
        return form

    def __str__(self) -> str:
        """Return the formats in words."""
        return str(self.mixed or self.format)


def choose_group_size(
    wanted: int | None, fallback: Sequence[int | None], architecture: Architecture, *, advise: bool = True
) -> int | None:
    """Return the first group size, of the wanted one and its fallbacks, that divides every quantized layer.

    None means one scale per output channel, which always fits.

    Args:
        wanted: columns that share a scale.
        fallback: sizes tried in order if that does not divide every layer.
        architecture: the model's shapes.
        advise: whether the method supports other group sizes.

    Raises:
        ValueError: none fits; names a layer that it does not divide, and what to type.
    """
    columns = {name: width for name, (_, width) in architecture.linear_shapes().items()}
    for size in (wanted, *fallback):
        if size is None or all(width % size == 0 for width in columns.values()):
            return size
    assert wanted is not None
    layer, width = next((layer, width) for layer, width in columns.items() if width % wanted)
    fits = [size for size in GROUP_SIZES if all(width % size == 0 for width in columns.values())]
    setting = f"quant.group_size={fits[0]}" if fits else "quant.group_size=null (one scale per channel)"
    advice = f"; try {setting}" if advise else ""
    raise ValueError(f"group size {wanted} does not divide the {width} input columns of {layer}{advice}")


class WeightOnlyConfig(MethodConfig):
    """Fields of methods with integer weights and 16-bit activations."""

    bits: Literal[4, 8]
    symmetric: bool
    group_size: PositiveInt | None
    """Input columns that share a scale; None for one scale per output channel."""
    group_size_fallback: tuple[PositiveInt | None, ...]
    """Sizes tried in order if ``group_size`` does not divide every layer; empty to allow no other."""

    @property
    def container(self) -> Container:
        """The container that the backend writes: compressed-tensors, or that of GPTQ libraries."""
        return "compressed-tensors" if self.backend == "llmcompressor" else "gptq"

    def used_group_size(self, architecture: Architecture) -> int | None:
        """Return the group size that fits the model; see :func:`choose_group_size`.

        Raises:
            ValueError: no group size fits.
        """
        return choose_group_size(self.group_size, self.group_size_fallback, architecture)

    def used_symmetric(self, architecture: Architecture) -> bool:
        """Return whether weights have no zero points: as configured, but always for a model with experts.

        Engines that run experts from a compressed-tensors checkpoint accept only symmetric weights.
        """
        return self.symmetric or (architecture.experts > 0 and self.container == "compressed-tensors")

    def notes(self, architecture: Architecture) -> tuple[str, ...]:
        """Return differences from the config, for the manifest."""
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
    """Fields of methods that are calibrated on text."""

    calibration: CalibrationConfig


class Method(Frozen, ABC):
    """One method with its validated config."""

    name: str
    """Name of its module."""
    config: SerializeAsAny[Frozen]

    def check(self, architecture: Architecture) -> None:
        """Check that the method can work for a model.

        Raises:
            ValueError: it cannot; says what to type.
        """

    @abstractmethod
    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the written files."""

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
        """Return the method in the variant of a release that has all these quantization names."""
        return self

    @property
    def backend(self) -> Name | None:
        """Library that implements it; None if nothing is quantized."""
        return None

    @property
    def calibration(self) -> CalibrationConfig | None:
        """Text that the method is calibrated on; None if it needs none."""
        return None

    @property
    def max_kl(self) -> float | None:
        """The user's limit of the KL divergence from the source, nats per token; None without one."""
        return None

    def working_bytes(self, architecture: Architecture, tokens: int) -> int:
        """Return the memory for one decoder layer in addition to weights and hidden states."""
        return 0

    def calibrating(self, architecture: Architecture) -> Calibration | None:
        """Return the resources of its calibration; None without calibration."""
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
        """Library that implements it."""
        return self.config.backend

    @property
    def max_kl(self) -> float | None:
        """The user's limit of the KL divergence from the source, nats per token; None without one."""
        return self.config.max_kl


class WeightOnly(Quantizing):
    """A method that stores integer weights and keeps activations in 16 bits."""

    config: SerializeAsAny[WeightOnlyConfig]

    def check(self, architecture: Architecture) -> None:
        """Check that the backend implements it and that a group size fits the model's layers.

        Raises:
            ValueError: one of them does not; says what to type.
        """
        self.config.check_backend(*backends_for(self.name))
        self.config.used_group_size(architecture)

    def expected(self, architecture: Architecture) -> Expected:
        """Return the expected form of the written files."""
        form = self.config.format(architecture)
        return Expected(format=form, ignore=self.config.ignore, max_kl_nats=self.config.max_kl)

    def quantize(self, architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
        """Write the quantized checkpoint with the backend, and add the config's notes."""
        run = backend(self.config.backend).methods[self.name]
        result = run(self.config, architecture, source, target, samples)
        return result.model_copy(update={"notes": (*self.config.notes(architecture), *result.notes)})


def method(name: str, fields: Mapping[str, Any]) -> Method:
    """Return method ``name`` with its fields.

    Raises:
        PluginError: there is no such method.
        ValidationError: a field is invalid; locations start at the field.
    """
    kind = class_named("quantize.methods", name, Method)  # type: ignore[type-abstract]
    config = kind.model_fields["config"].annotation
    assert config is not None
    return kind(name=name, config=config.model_validate(fields))
