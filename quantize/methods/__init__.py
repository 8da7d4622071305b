"""One module per quantization method, named by ``method:`` in a quant config.

Each module holds

- ``Config``: its fields, frozen and checked;
- ``needs(config) -> tuple[str, ...]``: packages it imports;
- ``check(config, architecture) -> None``: raises ``ValueError`` with the reason when it can never work for the model;
- ``expected(config) -> Expected``: what the written file must look like;
- ``quantize(config, architecture, source, target, samples) -> tuple[str, ...]``: does the work and returns notes.

Importing a method loads no torch: a method imports its library inside ``quantize``.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt

from quantize.key import Frozen

Samples = Sequence[Sequence[int]]
"""Calibration samples as token ids."""


class Architecture(Frozen):
    """What is known of a model without its weights. Sizes are numbers of elements."""

    layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tied_embeddings: bool
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0

    def linear_inputs(self) -> dict[str, int]:
        """Return the number of input columns of each kind of linear layer that is quantized."""
        mlp = self.moe_intermediate_size if self.experts else self.intermediate_size
        return {
            "q_proj, k_proj, v_proj, gate_proj, up_proj": self.hidden_size,
            "o_proj": self.heads * self.head_dim,
            "down_proj": mlp,
        }


class CalibrationConfig(Frozen):
    """Which text a calibrated method sees, and how much."""

    set: str
    """``embedded``, or a path to a .jsonl file with a ``text`` field."""
    n_samples: PositiveInt
    max_seq_len: PositiveInt = Field(ge=16)
    """Tokens per sample."""


class Expected(Frozen):
    """What a finished checkpoint must look like, checked against its safetensors headers."""

    weight_suffix: str
    """How the names of quantized weights end; empty when nothing is quantized."""
    weight_dtype: str
    ignore: tuple[str, ...] = ()
    """Layers that stay in 16 bits: names, or ``re:`` patterns."""


def choose_group_size(wanted: int | None, fallback: Sequence[int], architecture: Architecture) -> int | None:
    """Return the first group size, of the wanted one and its fallbacks, that divides every quantized layer.

    None stands for one scale per output channel, which always fits.

    Raises:
        ValueError: none fits; says which layer refuses and what to type.
    """
    if wanted is None:
        return None
    columns = architecture.linear_inputs()
    for size in (wanted, *fallback):
        if all(width % size == 0 for width in columns.values()):
            return size
    layer, width = next((layer, width) for layer, width in columns.items() if width % wanted)
    fits = [size for size in (128, 64, 32) if all(width % size == 0 for width in columns.values())]
    advice = f"try quant.group_size={fits[0]}" if fits else "try quant.group_size=null (one scale per channel)"
    raise ValueError(f"group size {wanted} does not divide the {width} input columns of {layer}: {advice}")


class WeightOnlyConfig(Frozen):
    """Fields that methods share whose weights are integers and whose activations stay in 16 bits."""

    bits: Literal[4, 8]
    symmetric: bool
    group_size: PositiveInt | None
    """Input columns that share a scale; None for one scale per output channel."""
    group_size_fallback: tuple[PositiveInt, ...]
    """Tried in order where ``group_size`` does not divide every layer."""
    ignore: tuple[str, ...]
    """Layers left in 16 bits: names, or ``re:`` patterns."""
    calibration: CalibrationConfig

    def used_group_size(self, architecture: Architecture) -> int | None:
        """Return the group size that fits the model; see :func:`choose_group_size`.

        Raises:
            ValueError: none does.
        """
        return choose_group_size(self.group_size, self.group_size_fallback, architecture)

    def used_symmetric(self, architecture: Architecture) -> bool:
        """Return whether weights go without zero points: as configured, but always for a model with experts.

        transformers 5.17 drops the zero points of stacked experts when it loads them, and then refuses the checkpoint.
        """
        return self.symmetric or architecture.experts > 0

    def notes(self, architecture: Architecture) -> tuple[str, ...]:
        """Return what is not as configured, for the manifest."""
        size = self.used_group_size(architecture)
        notes = []
        if size != self.group_size:
            notes.append(f"group size {size} instead of {self.group_size}, which does not divide every layer")
        if self.used_symmetric(architecture) != self.symmetric:
            notes.append("symmetric instead of asymmetric: zero points of experts cannot be loaded back")
        return tuple(notes)

    def expected(self) -> Expected:
        """Return what the checkpoint must look like: weights packed into 32-bit words."""
        return Expected(weight_suffix=".weight_packed", weight_dtype="I32", ignore=self.ignore)
