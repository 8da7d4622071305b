"""Prove that a checkpoint is what its scheme says, from its safetensors files and those of its source."""

import re
from collections.abc import Iterable, Iterator

from quantize.checkpoint import CheckpointError, TensorFact
from quantize.formats import Format
from quantize.method import Expected
from quantize.reader import CACHE_SCALES, Reader
from quantize.scheme import matches

FLOATS = ("BF16", "F16", "F32")
E8M0_NAN = 255
"""Code of NaN in a scale of MXFP4 (OCP Microscaling 1.0)."""
EMBEDDING = re.compile(r"(^|\.)embed_tokens$")
BUFFER = re.compile(r"rotary_emb\.inv_freq$")
"""A tensor that older checkpoints store, but every library recomputes."""
ROUTER = re.compile(r"\.mlp\.gate$")
OUTPUT = "lm_head.weight"
KEPT = re.compile(r"(^lm_head|(^|\.)embed_tokens|\.mlp\.gate)\.weight$")
"""Tensors whose values a method may change only if the scheme says so."""


def is_ignored(layer: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns names a layer; see :func:`quantize.scheme.matches`."""
    return any(matches(layer, pattern) for pattern in patterns)


def linear_layers(source: Iterable[TensorFact], ignore: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return {layer name: (rows, columns)} of the layers of a 16-bit checkpoint that a scheme must quantize.

    These are its matrices, without the embeddings and the layers that the scheme leaves in 16 bits.
    """
    patterns = tuple(ignore)
    layers: dict[str, tuple[int, int]] = {}
    for fact in source:
        layer, _, kind = fact.name.rpartition(".")
        matrix = kind == "weight" and len(fact.shape) == 2
        if matrix and not EMBEDDING.search(layer) and not is_ignored(layer, patterns):
            layers[layer] = (fact.shape[0], fact.shape[1])
    return layers


def prove(source: Reader, written: Reader, expected: Expected) -> float | None:
    """Check a written checkpoint against its scheme and its source; return its stored bits per quantized weight.

    Args:
        source: the 16-bit checkpoint that it was made from.
        written: the written checkpoint.
        expected: the form that the scheme requires.

    Returns:
        Bits per quantized weight, including scales and zero points; None for a scheme that quantizes nothing.

    Raises:
        CheckpointError: a layer is missing, was not quantized, or should not have been; names the first.
    """
    if expected.format is None:
        plain = (fact for fact in written.facts.values() if not BUFFER.search(fact.name))
        wrong = next((fact for fact in plain if fact.dtype not in ("BF16", "F16")), None)
        if wrong:
            raise CheckpointError(f"{wrong.name} is {wrong.dtype}: this is not a 16-bit checkpoint")
        return None
    claimed = written.claimed
    if claimed is None:
        raise CheckpointError("config.json has no quantization_config: an engine would treat it as a 16-bit checkpoint")
    if str(claimed) != str(expected) or (expected.mixed is None and claimed.form != expected.format):
        raise CheckpointError(f"config.json says {claimed}, but the scheme is {expected}")
    layers = linear_layers(source.facts.values(), expected.ignore)
    for layer, shape in layers.items():
        _prove_layer(written, layer, shape, expected.form_of(layer))
    extra = next((layer for layer in written.quantized_layers if layer not in layers), None)
    if extra:
        raise CheckpointError(f"{extra} is quantized, but the scheme leaves this layer in 16 bits")
    if expected.format.container in NAMES_ITS_EXCEPTIONS:
        _prove_exceptions(written, claimed.ignore, set(layers))
    _prove_rest(source, written, expected, set(layers))
    _prove_scales(written)
    if expected.format.container == "gptq":
        _prove_gptq(written, expected.format)
    stored = sum(fact.bytes for layer in layers for fact in written.quantized_layers[layer].values())
    return 8 * stored / sum(rows * columns for rows, columns in layers.values())


def _prove_layer(written: Reader, layer: str, shape: tuple[int, int], form: Format) -> None:
    """Check that a layer is stored as its format requires, in every tensor's dtype and shape."""
    facts = written.quantized_layers.get(layer)
    if facts is None:
        plain = written.facts.get(f"{layer}.weight")
        state = f"left in 16 bits ({plain.dtype})" if plain else "missing"
        raise CheckpointError(f"{layer} should be stored as {form} and is {state}: the scheme was not applied")
    parts = form.stored(*shape)
    for part, stored in parts.items():
        fact = facts.get(part)
        if fact is None:
            raise CheckpointError(f"{layer} has no {part}, which {form} needs")
        if fact.dtype not in stored.dtypes or fact.shape != stored.shape:
            dtypes = " or ".join(sorted(stored.dtypes))
            raise CheckpointError(f"{fact.name} is {fact.dtype} {fact.shape}, {form} needs {dtypes} {stored.shape}")
    unknown = next((part for part in facts if part not in parts), None)
    if unknown:
        raise CheckpointError(f"{layer} has a tensor {unknown}, which is not part of {form}")


def _prove_rest(source: Reader, written: Reader, expected: Expected, quantized: set[str]) -> None:
    """Check that all other tensors exist in 16 bits, and that embeddings, output layer and routers are unchanged."""
    ties = bool(source.config.get("tie_word_embeddings"))
    for name, fact in source.facts.items():
        if name.removesuffix(".weight") in quantized or BUFFER.search(name):
            continue
        copy = written.facts.get(name)
        if copy is None and ties and name == OUTPUT:
            continue  # embeddings and output layer share a table
        if copy is None:
            raise CheckpointError(f"{name} is missing from the written checkpoint")
        if copy.dtype not in FLOATS or copy.shape != fact.shape:
            raise CheckpointError(f"{name} was {fact.dtype} {fact.shape} and is {copy.dtype} {copy.shape}")
        moved = expected.moves_scales and ROUTER.search(name.removesuffix(".weight"))
        if KEPT.search(name) and not moved and not _same(source, written, name):
            raise CheckpointError(f"{name} was changed, but the scheme does not quantize it")
    part_names = {f"{layer}.{part}" for layer, parts in written.quantized_layers.items() for part in parts}
    for name in written.facts:
        tied = ties and name == OUTPUT
        if name.endswith(CACHE_SCALES):
            _prove_cache_scale(written, name)
            continue
        if name not in source.facts and name not in part_names and not tied and not name.endswith(".bias"):
            raise CheckpointError(f"{name} is in the written checkpoint, but not in its source")


def _prove_cache_scale(written: Reader, name: str) -> None:
    """Check that a scale of the KV cache is one positive number, and that the configuration declares it."""
    assert written.claimed is not None
    value = written.tensor(name).float()
    if not written.claimed.has_cache_scales:
        raise CheckpointError(f"{name} is in the written checkpoint, but its configuration has no KV-cache scheme")
    if value.numel() != 1 or not bool((value.isfinite() & (value > 0)).all()):
        raise CheckpointError(f"{name} is not one positive number")


def _same(source: Reader, written: Reader, name: str) -> bool:
    """Return whether a tensor is unchanged, up to rounding if the container uses a different 16-bit type."""
    import torch

    before, after = source.tensor(name), written.tensor(name)
    if before.dtype == after.dtype:
        return bool(torch.equal(before, after))
    return bool(torch.allclose(before.float(), after.float(), rtol=2**-7, atol=1e-6))  # BF16 has 8 significant bits


def _prove_exceptions(written: Reader, ignore: tuple[str, ...], quantized: set[str]) -> None:
    """Check that config.json excludes exactly the layers in 16 bits, because engines lay out their weights by it."""
    for name, fact in written.facts.items():
        layer = name.removesuffix(".weight")
        linear = name.endswith(".weight") and len(fact.shape) == 2 and not EMBEDDING.search(layer)
        exempt = name == OUTPUT or ROUTER.search(layer)  # engines quantize these only if asked to
        if linear and not exempt and layer not in written.quantized_layers and not is_ignored(layer, ignore):
            raise CheckpointError(f"{layer} is in 16 bits, but config.json does not list it as unquantized")
    conflict = next((layer for layer in sorted(quantized) if is_ignored(layer, ignore)), None)
    if conflict:
        raise CheckpointError(f"{conflict} is quantized, but config.json lists it as unquantized")


def _prove_gptq(written: Reader, form: Format) -> None:
    """Check what fast kernels assume without reading it: columns in order, and the middle of the range as zero point.

    Each is checked only if the config says so (``desc_act`` false, ``sym`` true).
    """
    import torch

    for layer in written.quantized_layers:
        order = written.tensor(f"{layer}.g_idx")
        size = form.columns_per_scale or len(order)
        if not form.act_order and not bool(torch.equal(order.long(), torch.arange(len(order)) // size)):
            raise CheckpointError(f"{layer}.g_idx is not in order, but config.json says desc_act false")
        word = sum((2 ** (form.bits - 1) - 1) << shift for shift in range(0, 32, form.bits))
        if form.symmetric and not bool((written.tensor(f"{layer}.qzeros").long() & 0xFFFFFFFF == word).all()):
            raise CheckpointError(f"{layer}.qzeros is not the middle, but config.json says sym true")


def _scales(written: Reader) -> Iterator[str]:
    for layer, parts in written.quantized_layers.items():
        yield from (f"{layer}.{part}" for part in parts if "scale" in part)


def _prove_scales(written: Reader) -> None:
    """Check that every scale is a finite number (AutoRound's may be negative)."""
    import torch

    for name in _scales(written):
        values = written.tensor(name)
        is_finite = values != E8M0_NAN if values.dtype == torch.uint8 else torch.isfinite(values.float())
        if not bool(is_finite.all()):
            raise CheckpointError(f"{name} has {int((~is_finite).sum())} scales that are not finite numbers")


NAMED_AFTER_METHODS = ("gptq", "awq")
NAMES_ITS_EXCEPTIONS = ("compressed-tensors", "fp8", "modelopt")
"""Containers whose config lists the layers in 16 bits; for the native ones engines know them by their modules."""


def _kind(form: Format) -> tuple[object, ...]:
    """Return the properties that all checkpoints of a variant share, whatever made them."""
    rounds = form.activations and (form.activations.type, form.activations.num_bits)
    return form.type, form.bits, form.scale, rounds


def expected_of_release(written: Reader, expected: Expected, method: str) -> Expected:
    """Return the expected form of a quantized release: that of its own config, which must be of the requested kind.

    Raises:
        CheckpointError: it is not quantized, or not of the variant's kind.
    """
    if expected.format is None or written.claimed is None:
        raise CheckpointError(f"{written.folder} is not a quantized release: config.json has no quantization_config")
    claimed = written.claimed
    kinds = [group.form for group in claimed.groups if _is_kind(group.form, expected.format, method)]
    if not kinds:
        raise CheckpointError(f"the release is {claimed}, not of the requested kind: {expected.format}")
    # Releases list unquantized layers by parts of names; the headers show which layers actually are.
    names = [fact.name.removesuffix(".weight") for fact in written.facts.values() if fact.dtype in FLOATS]
    parts = [part for part in claimed.ignore if not part.startswith("re:") and "*" not in part]
    plain = tuple(
        layer
        for layer in names
        if is_ignored(layer, claimed.ignore) or any(part in layer for part in parts) or claimed.of(layer) is None
    )
    return expected.model_copy(
        update={
            "format": kinds[-1],
            "mixed": claimed if len(claimed.groups) > 1 else None,
            "ignore": (*expected.ignore, *plain),
            "moves_scales": True,
            "nearest": False,
        }
    )


def _is_kind(form: Format, wanted: Format, method: str) -> bool:
    is_other_method = form.container in NAMED_AFTER_METHODS and form.container != method
    return _kind(form) == _kind(wanted) and not is_other_method
