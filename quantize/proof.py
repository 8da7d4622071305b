"""Is the written checkpoint what its scheme says? Answered from the safetensors headers, never from a config file."""

import re
from collections.abc import Iterable

from quantize.checkpoint import CheckpointError, TensorFact
from quantize.methods import Expected

FLOATS = {"F64", "F32", "F16", "BF16"}
PARTS = ("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx")
"""Names under which one layer's quantized weight is stored."""


def is_ignored(layer: str, patterns: Iterable[str]) -> bool:
    """Tell whether a layer's name equals one of the patterns, or matches one that begins with ``re:``."""
    return any(re.match(p[3:], layer) if p.startswith("re:") else layer == p for p in patterns)


def linear_layers(source: Iterable[TensorFact], ignore: Iterable[str]) -> dict[str, int]:
    """Return {layer name: number of weights} of the layers of a 16-bit checkpoint that a scheme must quantize.

    These are its matrices, without the embeddings and without what the scheme leaves alone.
    """
    patterns = tuple(ignore)
    found: dict[str, int] = {}
    for fact in source:
        layer, _, kind = fact.name.rpartition(".")
        if kind == "weight" and len(fact.shape) == 2 and "embed" not in layer and not is_ignored(layer, patterns):
            found[layer] = fact.shape[0] * fact.shape[1]
    return found


def prove(source: list[TensorFact], written: list[TensorFact], expected: Expected) -> float | None:
    """Check a written checkpoint against its scheme and return its stored bits per quantized weight.

    Args:
        source: tensors of the 16-bit checkpoint it was made from.
        written: tensors of the written checkpoint.
        expected: what the scheme promises.

    Returns:
        Bits per quantized weight, scales and zero points included; None for a scheme that quantizes nothing.

    Raises:
        CheckpointError: a layer is missing, was not quantized, or something else was; names the first.
    """
    by_name = {fact.name: fact for fact in written}
    if not expected.weight_suffix:
        wrong = next((fact for fact in written if fact.dtype not in FLOATS - {"F64", "F32"}), None)
        if wrong:
            raise CheckpointError(f"{wrong.name} is {wrong.dtype}: this is not a 16-bit checkpoint")
        return None
    layers = linear_layers(source, expected.ignore)
    for layer in layers:
        fact = by_name.get(layer + expected.weight_suffix)
        if fact is None or fact.dtype != expected.weight_dtype:
            found = f"{fact.dtype}" if fact else ("left in 16 bits" if f"{layer}.weight" in by_name else "missing")
            raise CheckpointError(
                f"{layer} should be stored as {expected.weight_dtype} and is {found}: the scheme was not applied"
            )
    quantized = set(layers)
    for fact in written:
        layer = fact.name.rpartition(".")[0]
        if layer not in quantized and fact.dtype not in FLOATS:
            raise CheckpointError(f"{fact.name} is {fact.dtype}, but the scheme leaves this layer in 16 bits")
    stored = sum(by_name[f"{layer}.{part}"].bytes for layer in layers for part in PARTS if f"{layer}.{part}" in by_name)
    return 8 * stored / sum(layers.values())
