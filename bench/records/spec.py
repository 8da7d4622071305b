"""The spec of a run as its record keeps it: typed, and without paths of the machine."""

from typing import Any

from quantize.architecture import Architecture
from quantize.key import Frozen
from quantize.texts import HeldoutConfig


class RecordedModel(Frozen):
    """The model."""

    title: str
    """Display name."""
    source: dict[str, Any]
    """Fields of its source, ``kind`` among them; empty in records of schema 4 and older that lack them."""
    context_length: int | None
    """Longest prompt plus answer of the model itself, tokens; None where an old record lacks it."""
    architecture: Architecture | None
    """Its shapes; None where an old record lacks them: then no limit can be computed."""


class RecordedQuant(Frozen):
    """A quantization."""

    name: str
    method: str
    config: dict[str, Any]
    """The method's fields."""
    release: dict[str, Any] | None
    """Fields of the source of an already quantized checkpoint; None for one that was quantized here."""


class RecordedEngine(Frozen):
    """The engine."""

    name: str
    config: dict[str, Any]
    """Its fields, as composed; compared with those of other runs, and printed."""
    dtype: str | None
    """Type that it was configured to compute in; None for an engine without such a field."""


class RecordedContext(Frozen):
    """The requested context."""

    name: str
    length: int | None
    """Tokens; None for the model's own."""


class RecordedAccuracy(Frozen):
    """Settings of the accuracy stage."""

    margin: float
    """Loss, as a share of 1, up to which a variant counts as no worse."""
    tasks: tuple[str, ...]
    limit: int | None
    max_gen_toks: int | None
    settings: dict[str, Any]
    """The other fields, as composed."""


class RecordedSpec(Frozen):
    """Everything that a run was asked to do."""

    model: RecordedModel
    quant: RecordedQuant
    baseline: RecordedQuant | None
    """The quantization that was served next to it; None where none was."""
    context: RecordedContext
    heldout: HeldoutConfig | None
    """None where an old record lacks it."""
    engine: RecordedEngine
    workload: dict[str, Any]
    """Fields of the workload, as composed; its shapes are those of the cells."""
    accuracy: RecordedAccuracy
    seed: int
