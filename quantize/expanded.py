"""Run any checkpoint on any machine: quantized weights expanded to 16 bits, inputs rounded where the scheme says so.

It runs one decoder layer at a time for a proof in bounded memory, or the complete model to serve it. Expert layers,
which transformers stacks into single tensors, are kept separate here, so that their inputs are rounded as well.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from quantize.checkpoint import CheckpointError, own_code
from quantize.formats import round_inputs
from quantize.reader import Reader

LAYERS = "model.layers"


class Experts(nn.Module):
    """The experts of one layer as single linear layers, named as in their checkpoint (``0.gate_proj``)."""

    def __init__(self, stacked: Any) -> None:
        """Take sizes and activation function from the stacked module that this one replaces."""
        super().__init__()
        self.act_fn = stacked.act_fn
        experts, hidden, columns = stacked.down_proj.shape
        for number in range(experts):
            expert = nn.Module()
            expert.gate_proj = nn.Linear(hidden, columns, bias=False, dtype=stacked.down_proj.dtype)
            expert.up_proj = nn.Linear(hidden, columns, bias=False, dtype=stacked.down_proj.dtype)
            expert.down_proj = nn.Linear(columns, hidden, bias=False, dtype=stacked.down_proj.dtype)
            self.add_module(str(number), expert)

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of each token's experts; hidden (tokens, size), chosen and weights (tokens, k)."""
        out = torch.zeros_like(hidden)
        for number in chosen.unique().tolist():
            token, place = torch.where(chosen == number)
            expert: Any = self.get_submodule(str(number))
            states = hidden[token]
            expert_out = expert.down_proj(self.act_fn(expert.gate_proj(states)) * expert.up_proj(states))
            out.index_add_(0, token, (expert_out * weights[token, place, None]).to(out.dtype))
        return out


def _unstack_experts(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if name.endswith(".experts") and hasattr(module, "gate_up_proj"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Experts(module))


class Expanded:
    """A checkpoint as a transformers model whose weights are read on demand."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        attention: str = "sdpa",
        device: torch.device | None = None,
    ) -> None:
        """Create the model without weights.

        Args:
            folder: the checkpoint.
            dtype: compute type.
            attention: name of transformers' attention function.
            device: device that it runs on; None for a GPU if there is one.

        Raises:
            CheckpointError: a file of the checkpoint is damaged or missing.
        """
        self.reader = Reader(folder)
        self.dtype = dtype
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=own_code(folder))
        if hasattr(self.config, "quantization_config"):
            del self.config.quantization_config
        with torch.device("meta"):
            self.model: Any = AutoModelForCausalLM.from_config(
                self.config, dtype=dtype, attn_implementation=attention, trust_remote_code=own_code(folder)
            ).eval()
            _unstack_experts(self.model)
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(self.config).to(self.device)

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.model.model.layers)

    def fill(self, module: nn.Module, prefix: str) -> nn.Module:
        """Read the weights of a module that was created without them, and round its inputs; return the module.

        Raises:
            CheckpointError: a weight is missing.
        """
        for name, child in module.named_modules():
            path = ".".join(filter(None, (prefix, name)))
            for own, parameter in list(child.named_parameters(recurse=False)):
                full = f"{path}.{own}"
                value = self.weight(child, path, parameter.shape) if own == "weight" else self.reader.tensor(full)
                if value.shape != parameter.shape:
                    raise CheckpointError(f"{full} is {tuple(value.shape)}, the model needs {tuple(parameter.shape)}")
                setattr(child, own, nn.Parameter(value.to(self.device, self.dtype), requires_grad=False))
        return module

    def weight(self, child: nn.Module, path: str, shape: torch.Size) -> torch.Tensor:
        """Return the weight of a module, expanded if it is quantized, and let the module round its inputs."""
        if path not in self.reader.quantized_layers:
            return self.reader.tensor(f"{path}.weight")
        self._round_inputs_of(child, path)
        return self.reader.weight(path, *shape)

    def _round_inputs_of(self, child: nn.Module, path: str) -> None:
        form = self.reader.form_of(path)
        if form.activations is None:
            return
        parts = {name: scale.to(self.device) for name, scale in self.reader.input_scales(path).items()}
        child.register_forward_pre_hook(lambda _, inputs: (round_inputs(form, parts, inputs[0]), *inputs[1:]))

    def layer(self, number: int) -> nn.Module:
        """Return a new copy of decoder layer ``number`` with its weights."""
        empty = copy.deepcopy(self.model.model.layers[number])
        return self.fill(empty, f"{LAYERS}.{number}")

    def ends(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return (embedding, final norm, output layer) with their weights."""
        embedding = self.fill(copy.deepcopy(self.model.model.embed_tokens), "model.embed_tokens")
        norm = self.fill(copy.deepcopy(self.model.model.norm), "model.norm")
        head = copy.deepcopy(self.model.lm_head)
        if "lm_head.weight" in self.reader.facts or "lm_head" in self.reader.quantized_layers:
            self.fill(head, "lm_head")
        elif self.config.tie_word_embeddings:
            head.weight = embedding.weight
        else:
            raise CheckpointError(f"{self.reader.folder}: there is no tensor lm_head.weight")
        return embedding, norm, head

    def run(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Return a decoder layer's output for hidden states (batch, length, size) from position 0 on."""
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        output = layer(
            hidden,
            attention_mask=None,
            position_ids=positions,
            position_embeddings=self.model.model.rotary_emb(hidden, positions),
            use_cache=False,
        )
        return output[0] if isinstance(output, tuple) else output

    def whole(self) -> Any:
        """Return the complete model with all its weights, tied where the model ties them."""
        embedding, norm, head = self.ends()
        self.model.model.embed_tokens, self.model.model.norm, self.model.lm_head = embedding, norm, head
        for number in range(self.n_layers):
            self.fill(self.model.model.layers[number], f"{LAYERS}.{number}")
        return self.model
