"""AutoGPTQ 0.7.1: the library that introduced the ``gptq`` container. No longer developed; GPTQModel is its successor.

It computes in float16 on CUDA, and in float32 on a CPU, where float16 is slow. It always stores float16: with bfloat16
scales its packing would round 8-bit weights to the wrong step. It was written for CUDA, and runs on a CPU once it no
longer asks for ``cuda:0``.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantize import native, transformers4
from quantize.architecture import Architecture
from quantize.backend import Backend, QuantizeResult, Samples

if TYPE_CHECKING:
    from quantize.methods.gptq import Config

PACKAGES = ("auto_gptq", "peft", "transformers", "torch")


def gptq(config: "Config", architecture: Architecture, source: Path, target: Path, samples: Samples) -> QuantizeResult:
    """Run GPTQ and write the ``gptq`` container.

    Raises:
        ValueError: the library or the container does not support the config.
    """
    native.check_gptq(config)
    stages, _ = native.inner_layers(source, config.ignore)
    from auto_gptq import BaseQuantizeConfig
    from auto_gptq.modeling._base import BaseGPTQForCausalLM

    class Decoder(BaseGPTQForCausalLM):  # type: ignore[misc]
        """The names of the linear layers, because the library's own list of models ends before Qwen3."""

        layers_block_name = native.LAYERS.rstrip(".")
        outside_layer_modules = ("model.embed_tokens", "model.norm")
        inside_layer_modules = stages

    group_size = config.used_group_size(architecture) or -1
    settings = BaseQuantizeConfig(
        bits=config.bits,
        group_size=group_size,
        damp_percent=config.damp,
        desc_act=config.act_order is not None,
        static_groups=config.act_order == "static",
        sym=True,
    )
    model = transformers4.load(source)
    biased = {name for name in model.state_dict() if name.endswith(".bias")}
    rows = [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in samples]
    with runs_without_cuda(), unreached_layers_are_rounded() as layers:
        Decoder(model, False, settings).quantize(rows, use_cuda_fp16=False, cache_examples_on_gpu=False)
    # The library adds a bias to every layer, which is zero where the model has none.
    tensors = {
        name: value for name, value in model.state_dict().items() if not name.endswith(".bias") or name in biased
    }
    native.save_float16(target, tensors, tied=bool(model.config.tie_word_embeddings))
    quantization = {
        "quant_method": "gptq",
        "bits": config.bits,
        "group_size": group_size,
        "sym": True,
        # With static groups the file's columns are in the model's own order: there is nothing to reorder on loading.
        "desc_act": config.act_order == "group",
        "static_groups": config.act_order == "static",
        "damp_percent": config.damp,
        "true_sequential": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }
    native.finish(source, target, quantization, dtype=native.FLOAT16)
    unreached = sum(not layer.reached for layer in layers)
    notes = (f"{unreached} of {len(layers)} layers saw no calibration token and were rounded",) if unreached else ()
    experts = [layer.reached for layer in layers if layer.expert_input]
    return QuantizeResult(
        notes=notes, experts_reached=sum(experts) / len(experts) if experts and architecture.experts else None
    )


@contextlib.contextmanager
def runs_without_cuda() -> Iterator[None]:
    """Without CUDA, make the library use the CPU instead of moving layers to ``cuda:0`` and synchronizing with it."""
    import auto_gptq.modeling._base as base
    import torch

    if torch.cuda.is_available():
        yield
        return
    device, wait = base.CUDA_0, torch.cuda.synchronize
    base.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda *args: None
    try:
        yield
    finally:
        base.CUDA_0, torch.cuda.synchronize = device, wait


@contextlib.contextmanager
def unreached_layers_are_rounded() -> Iterator[list[Any]]:
    """Round experts that no calibration token reaches to nearest, instead of setting them to zero as the library does.

    Yields:
        One entry for each quantized layer, with ``reached`` and ``expert_input`` (whether it belongs to an expert).
    """
    import auto_gptq.modeling._base as base
    import torch

    original = base.GPTQ
    layers: list[Any] = []

    class Careful(original):  # type: ignore[misc,valid-type]
        """GPTQ of one layer."""

        reached = False
        expert_input = False

        def __init__(self, layer: Any) -> None:
            super().__init__(layer)
            layers.append(self)

        def add_batch(self, inp: Any, out: Any) -> None:
            """Add one batch of inputs; those of experts have no batch axis."""
            self.expert_input = self.expert_input or inp.dim() == 2
            if inp.numel():
                self.reached = True
                super().add_batch(inp, out)

        def fasterquant(self, **settings: Any) -> Any:
            """Quantize the layer's weight in place and return its scales, zero points and group index."""
            if not self.reached:
                self.H = torch.eye(self.columns, device=self.dev)
                self.nsamples = 1
            return super().fasterquant(**settings)

    base.GPTQ = Careful
    try:
        yield layers
    finally:
        base.GPTQ = original


BACKEND = Backend("auto-gptq", PACKAGES, {"gptq": gptq})
