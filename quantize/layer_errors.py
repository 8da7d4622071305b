"""Errors of single layers: how far a layer's output is from its source's, at a typical position of the text."""

from collections.abc import Callable

import torch
from torch import nn

from quantize.checkpoint import LayerError
from quantize.expanded import Expanded

RESCALED = ("v_proj", "up_proj")
"""Layers from which AWQ moves a factor per channel into the next layer. For every method, their outputs are compared up
to such factors."""
SINK = 10.0
"""Ratio of an output's norm to the median norm above which its position is an attention sink. Measured on
SmolLM2-135M: 746 to 854 at the first position in ``down_proj`` of layer 11, at most 5 in any other kind of layer."""
WORST = 0.9
"""Highest error of a layer that is still related to its source's. Measured: 0.71, SmolLM2-135M in MXFP4."""
FAR = 5.0
HIGH = 0.5
"""A layer error that is both above ``HIGH`` and this many times the median of its kind is refused."""


def _capture(layer: nn.Module, call: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return {linear layer: its output, float32} of one call, with the block of experts instead of single experts."""
    outputs: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in layer.named_modules():
        block = name == "mlp" and any(".experts." in inner for inner, _ in layer.named_modules())
        if block or (isinstance(module, nn.Linear) and ".experts." not in name):
            hooks.append(
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: outputs.__setitem__(name, output.float().flatten(0, -2))
                )
            )
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def relative_errors(
    reference: torch.Tensor, output: torch.Tensor, *, rescale: bool = False
) -> tuple[float, float | None]:
    """Return the median over positions of |output - reference| / |reference|, at attention sinks and elsewhere.

    Args:
        reference: outputs of the source's layer (positions, features).
        output: outputs of the quantized layer.
        rescale: whether to compare up to the best factor per feature.

    Returns:
        (error at positions that are no sinks, error at sinks; None if there are none).
    """
    size = reference.norm(dim=1)
    reference, output, size = reference[size > 0], output[size > 0], size[size > 0]
    if not len(size):
        return 0.0, None
    if rescale:
        # Every position counts the same, or the sinks alone would choose the factors.
        a, b = reference / size[:, None], output / size[:, None]
        norm = b.square().sum(0)
        output = output * torch.where(norm > 0, (a * b).sum(0) / norm, 1.0)
    errors = (output - reference).norm(dim=1) / size
    sinks = size > SINK * size.median()
    return float(errors[~sinks].median()), float(errors[sinks].median()) if bool(sinks.any()) else None


def layer_errors(
    number: int, layers: tuple[nn.Module, nn.Module], source: Expanded, *, hidden: torch.Tensor, real: torch.Tensor
) -> list[LayerError]:
    """Compare the linear layers of one decoder layer, giving each half of it the source's input.

    The MLP gets the source's states after attention, so that attention's error is not counted again.

    Args:
        number: the decoder layer's number, from 0.
        layers: the source's and the quantized one.
        source: runs both.
        hidden: the source's states before it (windows, positions, features).
        real: which positions belong to the text, the others are padding (windows, positions).
    """
    a, b = layers
    middle: list[torch.Tensor] = []
    norm = a.get_submodule("post_attention_layernorm")
    hook = norm.register_forward_pre_hook(lambda _, inputs: middle.append(inputs[0]))
    before = _capture(a, lambda: source.run(a, hidden))
    hook.remove()
    after = _capture(b, lambda: source.run(b, hidden))
    mlp, its_norm = b.get_submodule("mlp"), b.get_submodule("post_attention_layernorm")
    after |= _capture(b, lambda: mlp(its_norm(middle[0])))
    errors = []
    for name, reference in before.items():
        rescale = name.endswith(RESCALED)
        error, at_sinks = relative_errors(reference[real.flatten()], after[name][real.flatten()], rescale=rescale)
        errors.append(LayerError(layer=number, name=name, relative_error=error, sink_error=at_sinks))
    return errors


def wrong_layer(errors: tuple[LayerError, ...]) -> str | None:
    """Return which layer's output is no longer related to its source's, and why; None if there is none."""
    kinds: dict[str, list[float]] = {}
    for error in errors:
        kinds.setdefault(error.name, []).append(error.relative_error)
    for error in errors:
        usual = sorted(kinds[error.name])[len(kinds[error.name]) // 2]
        # Written so that a figure that is not a number is wrong too.
        far = not error.relative_error <= max(HIGH, FAR * usual)
        if far or not error.relative_error <= WORST:
            return (
                f"the output of {error.name} in layer {error.layer} differs from the source's by "
                f"{error.relative_error:.0%}, usually {usual:.0%} in such layers"
            )
    return None
