"""Prove that a checkpoint's weights are those of its source, matrix by matrix, in the memory of one matrix.

A written matrix differs from its source by rounding, and by the factors that AWQ and SmoothQuant move between layers.
Those factors are read from the checkpoint itself: a norm divided by its source's gives those of the columns of the
layers that read it, and the rows of ``v_proj`` and ``up_proj`` give those of the columns of ``o_proj`` and
``down_proj``. An error of a row that feeds another layer is therefore found there.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch.nn import functional

from quantize.checkpoint import CheckpointError
from quantize.formats import step_sizes
from quantize.key import Frozen
from quantize.method import Expected
from quantize.proof import BUFFER, linear_layers
from quantize.reader import Reader

READS_NORM = (
    (re.compile(r"^(?P<block>.*)\.self_attn\.[qkv]_proj$"), "input_layernorm"),
    (re.compile(r"^(?P<block>.*)\.mlp\.(gate|(experts\.\d+\.)?(gate|up)_proj)$"), "post_attention_layernorm"),
)
"""Layers whose input is a norm's output, and the norm."""
FEEDS = {"o_proj": "v_proj", "down_proj": "up_proj"}
"""Layers each of whose input columns is computed from one row of another layer of the same block."""

MOST_STEPS = 1.05
"""Largest difference of a weight that was rounded to nearest: half a step, and as much again at the ends of a range
whose zero point was rounded. Measured: 0.53."""
MOST_ROUNDING = 6.0
"""Highest ratio of a matrix' error to that of rounding to nearest. Measured: 3.0, of GPTQ calibrated on few tokens."""
MOST_SCALE_ERROR = 0.15
SUSPECT_SCALE_ERROR = 0.08
"""Scale or column errors above which a matrix is refused or noted. Measured: 0.051, of the same matrix of GPTQ."""
MOST_OFFSET_STEPS = 0.5
"""Highest mean difference in a group. Measured: 0.12; it is 1 for zero points that are wrong by one."""
ROUNDED = 2**-7
"""Relative error up to which a number in 16 bits is the same: containers use different types, and BF16 keeps 8 bits."""
SCALED = 0.02
"""The same for a number that factors were moved into, which are rounded to 8 bits in two places."""
TINY = 1e-30
"""Divisor for what is zero in the source too, such as the row of an unused channel."""

Shapes = Mapping[str, tuple[int, int]]


class WeightError(Frozen):
    """How a quantized matrix differs from its source times the factors that the method moved between layers."""

    name: str
    """Name of its layer."""
    relative_error: float
    """Ratio |weights - source's weights| / |source's weights|, Frobenius."""
    rounding_error: float
    """The ratio that rounding to nearest with the stored scales has on average."""
    largest_steps: float
    """Largest difference of a weight, in the unit of steps between neighbouring values of the format."""
    offset_steps: float
    """Root mean square, over groups of columns, of the mean difference, in the unit of steps."""
    scale_error: float
    """Root mean square, over groups of columns, of the best ratio of these weights to the source's, less 1."""
    column_error: float
    """The same ratio over single columns."""


class Factors:
    """The factors that a method moved between layers, read from the checkpoint."""

    def __init__(self, source: Reader, written: Reader) -> None:
        """Read them from ``written``, which was made from ``source``."""
        self._source, self._written = source, written
        self._rows: dict[str, torch.Tensor] = {}

    def of(self, layer: str) -> torch.Tensor:
        """Return the factor of each weight of a layer, of a shape that broadcasts to (rows, columns)."""
        columns = self._columns(layer)
        return columns * self.rows(layer)[:, None] if layer.endswith(tuple(FEEDS.values())) else columns

    def rows(self, layer: str) -> torch.Tensor:
        """Return the factor of each row of a layer that feeds another one: the best from the source's row to it."""
        if layer not in self._rows:
            self._rows = {}  # those of one layer at a time are needed
            before = self._source.tensor(f"{layer}.weight").float() * self._columns(layer)
            after = self._written.weight(layer, *before.shape).float()
            factors = (before * after).sum(1) / before.square().sum(1)
            self._rows[layer] = factors.where(factors.isfinite() & (factors != 0), torch.ones(()))
        return self._rows[layer]

    def _columns(self, layer: str) -> torch.Tensor:
        for pattern, norm in READS_NORM:
            if match := pattern.match(layer):
                name = f"{match['block']}.{norm}.weight"
                before, after = self._source.tensor(name).float(), self._written.tensor(name).float()
                return torch.where(before == after, torch.ones(()), before / after)
        block, _, own = layer.rpartition(".")
        if own in FEEDS:
            rows = self.rows(f"{block}.{FEEDS[own]}")
            columns = self._source.facts[f"{layer}.weight"].shape[1]
            if len(rows) != columns:  # several heads read the same values
                rows = rows.view(self._source.config["num_key_value_heads"], -1)
                rows = rows.repeat_interleave(columns // rows.numel(), 0).flatten()
            return 1 / rows
        return torch.ones(())


def weight_errors(source: Reader, written: Reader, layers: Shapes, factors: Factors | None) -> Iterator[WeightError]:
    """Yield how each quantized matrix differs from its source.

    Args:
        source: the 16-bit checkpoint.
        written: the quantized checkpoint.
        layers: (rows, columns) of each quantized matrix.
        factors: those that the method moved between layers; None if it moves none.
    """
    for layer, shape in layers.items():
        before = source.tensor(f"{layer}.weight").float()
        if factors:
            before *= factors.of(layer)
        after, form = written.weight(layer, *shape), written.form_of(layer)
        steps = step_sizes(form, written.parts(layer), after).clamp_min(TINY)
        difference = after - before
        size = before.square().sum().clamp_min(TINY)
        width = form.columns_per_scale or shape[1]
        yield WeightError(
            name=layer,
            relative_error=float((difference.square().sum() / size).sqrt()),
            rounding_error=float((steps.square().sum() / 12 / size).sqrt()),
            largest_steps=float((difference.abs() / steps).max()),
            offset_steps=float(_grouped(difference / steps, width).mean(2).square().mean().sqrt()),
            scale_error=_scale_error(_grouped(before, width), _grouped(after, width)),
            column_error=_scale_error(before.T[None], after.T[None]),
        )


def _grouped(matrix: torch.Tensor, width: int) -> torch.Tensor:
    """Return a matrix as (rows, groups, width), the last group padded with zeros."""
    return functional.pad(matrix, (0, -matrix.shape[1] % width)).unflatten(1, (-1, width))


def _scale_error(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return how far the best factors along the last axis are from 1, root mean square over the other axes."""
    energy = first.square().sum(2)
    # A group of zeros has no factor and no weight in the mean.
    factors = (first * second).sum(2) / energy.where(energy > 0, torch.ones(()))
    return float(((energy * (factors - 1).square()).sum() / energy.sum().clamp_min(TINY)).sqrt())


def prove_weights(source: Reader, written: Reader, expected: Expected) -> tuple[str, ...]:
    """Check every tensor of a checkpoint against its source, and return notes on matrices that are suspicious.

    Args:
        source: the 16-bit checkpoint that it was made from.
        written: the written checkpoint, whose form has been proven.
        expected: the form that the scheme requires.

    Raises:
        CheckpointError: a tensor is not the source's; names the first, and how it differs.
    """
    layers = linear_layers(source.facts.values(), expected.ignore)
    factors = Factors(source, written) if expected.moves_scales else None
    # Norms first, because the factors of matrices are read from them.
    for name in sorted(source.facts, key=lambda name: len(source.facts[name].shape)):
        if name in written.facts and name.removesuffix(".weight") not in layers and not BUFFER.search(name):
            _prove_plain(source, written, name, factors)
    for name in written.facts:
        if name not in source.facts and name.endswith(".bias") and bool(written.tensor(name).any()):
            raise CheckpointError(f"{name} is in the written checkpoint, but not in its source")
    suspects = []
    for error in weight_errors(source, written, layers, factors):
        if reason := _wrong(error, nearest=expected.nearest):
            raise CheckpointError(f"the weights of {error.name} are not those of the source: {reason}")
        if max(error.scale_error, error.column_error) > SUSPECT_SCALE_ERROR:
            suspects.append(error)
    if not suspects:
        return ()
    worst = max(suspects, key=lambda error: max(error.scale_error, error.column_error))
    return (f"scales of {len(suspects)} of {len(layers)} matrices are suspicious; in {worst.name} {_scaled(worst)}",)


def _scaled(error: WeightError) -> str:
    what = "groups" if error.scale_error > error.column_error else "columns"
    return f"{what} are scaled by {max(error.scale_error, error.column_error):.1%} too much or too little"


def _wrong(error: WeightError, *, nearest: bool) -> str | None:
    """Return why a matrix cannot have been made from its source, or None."""
    # Written so that a figure that is not a number is wrong too.
    if nearest and not error.largest_steps <= MOST_STEPS:
        return f"one differs by {error.largest_steps:.3g} steps, where rounding to nearest differs by half a step"
    if not error.relative_error <= MOST_ROUNDING * error.rounding_error:
        return (
            f"they differ by {error.relative_error:.1%}, where rounding to nearest with its scales differs by "
            f"{error.rounding_error:.1%}"
        )
    if not max(error.scale_error, error.column_error) <= MOST_SCALE_ERROR:
        return _scaled(error)
    if not error.offset_steps <= MOST_OFFSET_STEPS:
        return f"its groups are shifted by {error.offset_steps:.2f} steps"
    return None


def _prove_plain(source: Reader, written: Reader, name: str, factors: Factors | None) -> None:
    """Check that a tensor in 16 bits is the source's, up to factors that the method moved."""
    before, after = source.tensor(name), written.tensor(name)
    layer, _, kind = name.rpartition(".")
    if not bool(after.isfinite().all()):
        raise CheckpointError(f"{name} has numbers that are not finite")
    if factors is not None and layer.endswith(tuple(norm for _, norm in READS_NORM)):
        if bool(((after == 0) & (before != 0)).any()):
            raise CheckpointError(f"{name} has factors of zero")
        return  # its effect on the layers that read it is proven there
    factor = torch.ones(())
    if factors is not None and kind == "weight" and before.dim() == 2:
        factor = factors.of(layer)
    elif factors is not None and kind == "bias" and layer.endswith(tuple(FEEDS.values())):
        factor = factors.rows(layer)
    if bool((factor == 1).all()):
        if before.dtype == after.dtype and torch.equal(before, after):
            return
        relative, absolute = ROUNDED, 1e-6
    else:
        relative, absolute = SCALED, SCALED * float(after.abs().max())
    if not torch.allclose(after.float(), before.float() * factor, rtol=relative, atol=absolute):
        raise CheckpointError(f"{name} was changed, but the scheme does not quantize it")
