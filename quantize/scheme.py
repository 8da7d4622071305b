"""How each layer of a checkpoint is stored, according to its own configuration; several formats may be mixed."""

import fnmatch
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from quantize.checkpoint import CheckpointError
from quantize.formats import Activations, Format, integers
from quantize.key import Frozen

EVERY_LINEAR = "Linear"
"""Target of compressed-tensors: every linear layer that no other group names."""


def matches(layer: str, pattern: str) -> bool:
    """Return whether a pattern names a layer: a name, a name with ``*``, or an expression after ``re:``."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], layer) is not None
    return layer == pattern or ("*" in pattern and fnmatch.fnmatchcase(layer, pattern))


class LayerGroup(Frozen):
    """Layers that are stored in the same format."""

    targets: tuple[str, ...]
    """Patterns of their names, or `EVERY_LINEAR`."""
    form: Format


class Scheme(Frozen):
    """The formats of a checkpoint's quantized layers."""

    groups: tuple[LayerGroup, ...]
    """Groups that name layers come before one that has all others."""
    ignore: tuple[str, ...] = ()
    """Patterns of the layers left in 16 bits."""
    has_cache_scales: bool = False
    """Whether the checkpoint has calibrated scales of the KV cache."""

    @property
    def form(self) -> Format:
        """The format of the last group, which has the layers that no other names."""
        return self.groups[-1].form

    @cached_property
    def _named(self) -> dict[str, Format]:
        """Formats of the layers whose complete names are targets, of which a mixed release may have thousands."""
        return {target: group.form for group in reversed(self.groups) for target in group.targets}

    def of(self, layer: str) -> Format | None:
        """Return the format of a layer; None if no group has it."""
        if layer in self._named:
            return self._named[layer]
        patterns = ((p, group.form) for group in self.groups for p in group.targets if "*" in p or ":" in p)
        return next((form for p, form in patterns if matches(layer, p)), self._named.get(EVERY_LINEAR))

    def __str__(self) -> str:
        """Return the formats in words."""
        return " and ".join(dict.fromkeys(str(group.form) for group in self.groups))


def scheme_of(config: Mapping[str, Any]) -> Scheme:
    """Return the scheme according to a checkpoint's own ``quantization_config`` (or ModelOpt's ``quantization``).

    Raises:
        CheckpointError: the config is of an unsupported kind.
    """
    try:
        return _scheme_of(config)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the quantization_config of config.json is not understood ({type(error).__name__}: {reason})"
        ) from error


def _scheme_of(config: Mapping[str, Any]) -> Scheme:
    method = config.get("quant_method")
    if method == "compressed-tensors":
        return _of_compressed_tensors(config)
    if method == "modelopt":
        return _of_modelopt(config)
    ignored = tuple(config.get("modules_to_not_convert") or ())
    if method == "gptq" and config.get("checkpoint_format", "gptq") == "gptq":
        group = int(config.get("group_size", 128))
        form = integers(config["bits"], None if group == -1 else group, symmetric=config["sym"], container="gptq")
        return _single(form.model_copy(update={"act_order": bool(config.get("desc_act"))}), ignored)
    if method == "awq" and config.get("version", "gemm").lower() == "gemm":
        bits, group = config.get("bits", config.get("w_bit")), config.get("group_size", config.get("q_group_size"))
        symmetric = not config.get("zero_point", True)
        return _single(integers(bits, None if group == -1 else group, symmetric=symmetric, container="awq"), ignored)
    if method == "fp8" and config.get("weight_block_size"):
        rows, columns = config["weight_block_size"]
        return _single(
            Format(
                container="fp8",
                type="float",
                bits=8,
                rows_per_scale=rows,
                columns_per_scale=columns,
                packed=False,
                activations=Activations(type="float", num_bits=8, strategy="group", dynamic=True, group_size=columns),
            ),
            ignored,
        )
    raise CheckpointError(
        f"a checkpoint with quant_method '{method}' of this kind is not supported; supported are compressed-tensors, "
        "gptq, awq (gemm), modelopt (FP8, NVFP4) and fp8 with 128 x 128 blocks"
    )


def _single(form: Format, ignore: tuple[str, ...]) -> Scheme:
    return Scheme(groups=(LayerGroup(targets=(EVERY_LINEAR,), form=form),), ignore=ignore)


def _of_compressed_tensors(config: Mapping[str, Any]) -> Scheme:
    groups = [
        LayerGroup(
            targets=tuple(group.get("targets") or (EVERY_LINEAR,)),
            form=_compressed_tensors_form(group, config.get("format")),
        )
        for group in config["config_groups"].values()
    ]
    if not groups:
        raise CheckpointError("a compressed-tensors checkpoint must have a config group to be read")
    return Scheme(
        groups=tuple(sorted(groups, key=lambda group: EVERY_LINEAR in group.targets)),
        ignore=tuple(config.get("ignore") or ()),
        has_cache_scales=bool(config.get("kv_cache_scheme")),
    )


def _compressed_tensors_form(group: Mapping[str, Any], file_format: str | None) -> Format:
    weights, inputs = group.get("weights"), group.get("input_activations")
    if weights is None:
        raise CheckpointError("a config group of compressed-tensors without weights is not supported")
    if weights.get("actorder") in ("group", "dynamic"):
        raise CheckpointError("compressed-tensors with actorder=group is not supported; its own library has dropped it")
    if inputs and not inputs.get("symmetric", True):
        raise CheckpointError("a checkpoint whose activations are rounded asymmetrically is not supported")
    strategy = weights["strategy"]
    rows, columns = {
        "tensor": (None, None),
        "channel": (1, None),
        "group": (1, weights.get("group_size")),
        "tensor_group": (1, weights.get("group_size")),
        "block": tuple(weights.get("block_structure") or (None, None)),
    }[strategy]
    float4 = weights["type"] == "float" and weights["num_bits"] == 4
    fields = set(Activations.model_fields)
    return Format(
        container="compressed-tensors",
        type=weights["type"],
        bits=weights["num_bits"],
        rows_per_scale=rows,
        columns_per_scale=columns,
        symmetric=weights["symmetric"],
        scale="float" if not float4 else ("e4m3" if strategy == "tensor_group" else "e8m0"),
        packed="pack" in str(group.get("format") or file_format),
        activations=Activations.model_validate({k: v for k, v in inputs.items() if k in fields}) if inputs else None,
    )


def _of_modelopt(config: Mapping[str, Any]) -> Scheme:
    """Return the scheme of NVIDIA ModelOpt, whose fields are in ``quantization`` or at the top."""
    fields = {**config, **config.get("quantization", {})}
    ignore = tuple(fields.get("exclude_modules") or fields.get("ignore") or ())
    algorithm = fields["quant_algo"]
    if algorithm == "MIXED_PRECISION":
        layers: dict[Format, list[str]] = {}
        for layer, of_layer in fields["quantized_layers"].items():
            form = modelopt_form(of_layer["quant_algo"], of_layer.get("group_size"))
            layers.setdefault(form, []).append(layer)
        groups = tuple(LayerGroup(targets=tuple(names), form=form) for form, names in layers.items())
    else:
        groups = (LayerGroup(targets=(EVERY_LINEAR,), form=modelopt_form(algorithm, fields.get("group_size"))),)
    cache = fields.get("kv_cache_quant_algo") or fields.get("kv_cache_scheme")
    return Scheme(groups=groups, ignore=ignore, has_cache_scales=bool(cache))


def modelopt_form(algorithm: str, group_size: int | None) -> Format:
    """Return the format of one of ModelOpt's algorithms.

    Raises:
        CheckpointError: the algorithm is not supported.
    """
    common: dict[str, Any] = {"container": "modelopt", "type": "float"}
    if algorithm == "FP8":
        rounded = Activations(type="float", num_bits=8, strategy="tensor", dynamic=False)
        return Format(**common, bits=8, rows_per_scale=None, columns_per_scale=None, packed=False, activations=rounded)
    if algorithm == "NVFP4":
        size = group_size or 16
        rounded = Activations(type="float", num_bits=4, strategy="tensor_group", dynamic="local", group_size=size)
        return Format(
            **common, bits=4, rows_per_scale=1, columns_per_scale=size, scale="e4m3", packed=True, activations=rounded
        )
    raise CheckpointError(f"ModelOpt's quant_algo '{algorithm}' is not supported; supported are FP8 and NVFP4")
