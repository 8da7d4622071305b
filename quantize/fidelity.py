"""Compare a checkpoint's predictions, layers and continuations with those of its source.

Both checkpoints run one decoder layer at a time (:mod:`quantize.expanded`), so that models larger than memory can be
compared too. Distributions are compared in float32.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantize.bf16 import multiply_in_float32
from quantize.checkpoint import Canaries, CheckpointError, Fidelity, LayerError, Speech, own_code
from quantize.device import FreeMemory, fits_whole, free_memory
from quantize.expanded import Expanded
from quantize.key import canonical_json, sha256_text

BATCH_TOKENS = 2048
"""Held-out tokens in one batch. Chosen: their logits take 1.2 GB for 151,936 tokens."""
PROBE_TOKENS = 256
"""Positions that the errors of single layers are measured on, enough for a mean over positions."""
CANARIES = 4
CANARY_PROMPT_TOKENS = 16
CANARY_NEW_TOKENS = 24
"""Number of prompts, and tokens of each. Chosen: takes seconds on a CPU, and a few words show a broken model."""
MAX_LOSS = 700.0
"""Nats per token above which a perplexity is not finite (exp overflows at 709.8); the KL limit refuses it anyway."""
RESCALED = ("v_proj", "up_proj")
"""Layers from which AWQ moves a factor per channel into the next layer. For every method, their outputs are compared up
to such factors."""


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


def relative_error(reference: torch.Tensor, output: torch.Tensor, *, rescale: bool = False) -> float:
    """Return |output - reference| / |reference|, Frobenius norms over (positions, features).

    Args:
        reference: output of the source's layer.
        output: output of the quantized layer.
        rescale: whether to compare up to the best factor per feature.
    """
    if rescale:
        norm = (output * output).sum(0)
        output = output * torch.where(norm > 0, (output * reference).sum(0) / norm, 1.0)
    size = float(reference.norm())
    return float((output - reference).norm()) / size if size else 0.0


def _layer_errors(number: int, a: nn.Module, b: nn.Module, source: Expanded, hidden: torch.Tensor) -> list[LayerError]:
    """Compare the linear layers of one decoder layer, giving each half of it the source's input.

    The MLP gets the source's states after attention, so that attention's error is not counted again.
    """
    middle: list[torch.Tensor] = []
    norm = a.get_submodule("post_attention_layernorm")
    hook = norm.register_forward_pre_hook(lambda _, inputs: middle.append(inputs[0]))
    before = _capture(a, lambda: source.run(a, hidden))
    hook.remove()
    after = _capture(b, lambda: source.run(b, hidden))
    mlp, its_norm = b.get_submodule("mlp"), b.get_submodule("post_attention_layernorm")
    after |= _capture(b, lambda: mlp(its_norm(middle[0])))
    return [
        LayerError(
            layer=number,
            name=name,
            relative_error=relative_error(reference, after[name], rescale=name.endswith(RESCALED)),
        )
        for name, reference in before.items()
    ]


def _batches(windows: Sequence[Sequence[int]], device: torch.device) -> list[torch.Tensor]:
    """Return the windows, all of one length, as tensors of about ``BATCH_TOKENS`` tokens."""
    at_once = max(1, BATCH_TOKENS // len(windows[0]))
    return [torch.tensor(windows[begin : begin + at_once], device=device) for begin in range(0, len(windows), at_once)]


def measure(
    source: Path,
    folder: Path,
    windows: Sequence[Sequence[int]],
    text_id: str,
    *,
    device: torch.device,
    free: FreeMemory = free_memory,
) -> "FidelityReport":
    """Compare two checkpoints on windows of held-out token ids.

    Args:
        source: the 16-bit checkpoint.
        folder: the quantized one.
        windows: token ids, all windows of one length.
        text_id: the name of their text.
        device: computes the comparison; one decoder layer of each must fit in its memory.
        free: returns a device's free memory.

    Raises:
        CheckpointError: a weight is missing, or a logit is not a finite number.
    """
    multiply_in_float32()
    totals, errors = _compare(Expanded(source, device=device), Expanded(folder, device=device), windows)
    positions = sum(map(len, windows))
    predicted = positions - len(windows)
    fidelity = Fidelity(
        text_id=text_id,
        text_sha256=sha256_text(canonical_json(windows)),
        n_tokens=positions,
        kl_nats=max(0.0, totals["kl"] / positions),
        top1_agreement=totals["same"] / positions,
        perplexity=math.exp(min(MAX_LOSS, totals["loss"] / predicted)),
        source_perplexity=math.exp(min(MAX_LOSS, totals["source_loss"] / predicted)),
    )
    prompts = [ids[:CANARY_PROMPT_TOKENS] for ids in windows if len(ids) > CANARY_PROMPT_TOKENS][:CANARIES]
    return FidelityReport(fidelity, errors, canaries(source, folder, prompts, device=device, free=free))


def _compare(
    reference: Expanded, candidate: Expanded, windows: Sequence[Sequence[int]]
) -> tuple[dict[str, float], tuple[LayerError, ...]]:
    """Run two checkpoints layer by layer; return (sums over all positions, errors of layers).

    Both are released from memory when it returns.
    """
    errors: list[LayerError] = []
    with torch.inference_mode():
        embed, norm, head = reference.ends()
        its_embed, its_norm, its_head = candidate.ends()
        batches = _batches(windows, reference.device)
        states = [embed(ids) for ids in batches]
        its_states = [its_embed(ids) for ids in batches]
        for number in range(reference.n_layers):
            a, b = reference.layer(number), candidate.layer(number)
            probe = states[0][:1, :PROBE_TOKENS]
            errors += _layer_errors(number, a, b, reference, probe)
            states = [reference.run(a, state) for state in states]
            its_states = [candidate.run(b, state) for state in its_states]
            del a, b  # before the next two are read, so that memory holds one layer of each
        totals: dict[str, float] = defaultdict(float)
        for ids, state, its_state in zip(batches, states, its_states, strict=True):
            p = head(norm(state)).float().log_softmax(-1)
            q = its_head(its_norm(its_state)).float().log_softmax(-1)
            for name, logits in (("source", p), ("written checkpoint", q)):
                if not bool(torch.isfinite(logits).all()):
                    raise CheckpointError(f"the {name} computes logits that are not finite numbers")
            following = ids[:, 1:, None]
            totals["kl"] += float((p.exp() * (p - q)).sum())
            totals["same"] += float((p.argmax(-1) == q.argmax(-1)).sum())
            totals["source_loss"] -= float(p[:, :-1].gather(2, following).sum())
            totals["loss"] -= float(q[:, :-1].gather(2, following).sum())
    return totals, tuple(errors)


class FidelityReport:
    """The results of :func:`measure`."""

    def __init__(self, fidelity: Fidelity, layer_errors: tuple[LayerError, ...], canaries: Canaries | None) -> None:
        """Store the three results; ``canaries`` is None if the complete model does not fit on the device."""
        self.fidelity = fidelity
        self.layer_errors = layer_errors
        self.canaries = canaries


def speech(tokens: Sequence[Sequence[int]], entropies: Sequence[float]) -> Speech:
    """Return statistics of greedy continuations: how repetitive they are, and how uncertain the model was.

    Args:
        tokens: the new token ids of each continuation.
        entropies: entropy of each next-token distribution, in nats.
    """
    pairs = [list(itertools.pairwise(ids)) for ids in tokens]
    total = sum(map(len, pairs))
    distinct = sum(len(set(bigrams)) for bigrams in pairs)
    return Speech(
        repetition=1 - distinct / total if total else 0.0,
        entropy_nats=sum(entropies) / len(entropies) if entropies else 0.0,
    )


def degenerate(source: Speech, candidate: Speech) -> str | None:
    """Return why continuations are degenerate compared with the source's, or None.

    A quantized model may be slightly more repetitive or uncertain; a broken one repeats itself, is certain of every
    token, or has almost uniform predictions.
    """
    # Chosen far beyond healthy checkpoints: 4 bits of SmolLM2-135M repeat 0.1 more and differ by 0.4 nats.
    if candidate.repetition > source.repetition + 0.5:
        return f"it repeats itself: {candidate.repetition:.0%} of token pairs, the source {source.repetition:.0%}"
    if candidate.entropy_nats < source.entropy_nats / 5:
        entropies = f"entropy {candidate.entropy_nats:.2f} nats, the source {source.entropy_nats:.2f}"
        return f"it is certain of everything: {entropies}"
    if candidate.entropy_nats > source.entropy_nats + 3:
        return f"it knows nothing: entropy {candidate.entropy_nats:.2f} nats, the source {source.entropy_nats:.2f}"
    return None


def _speak(
    folder: Path, prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Speech, tuple[tuple[int, ...], ...]]:
    model = Expanded(folder, device=device)
    complete = model.whole()
    ids = torch.tensor(prompts, device=model.device)
    entropies: list[float] = []
    past: Any = None
    # A checkpoint's own code may be older than transformers' caches.
    use_cache = not own_code(folder)
    with torch.inference_mode():
        for _ in range(CANARY_NEW_TOKENS):
            inputs = ids if past is None else ids[:, -1:]
            output = complete(input_ids=inputs, past_key_values=past, use_cache=use_cache, logits_to_keep=1)
            past = getattr(output, "past_key_values", None) if use_cache else None
            logprobs = output.logits[:, -1].float().log_softmax(-1)
            entropies += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
            ids = torch.cat([ids, logprobs.argmax(-1, keepdim=True)], dim=1)
    new = tuple(tuple(row) for row in ids[:, len(prompts[0]) :].tolist())
    return speech(new, entropies), new


def canaries(
    source: Path, folder: Path, prompts: Sequence[Sequence[int]], *, device: torch.device, free: FreeMemory
) -> Canaries | None:
    """Continue the prompts greedily with both checkpoints, one after the other.

    Each runs as a complete model, for which every layer is read once. None if it does not fit on the device.
    """
    expanded_bytes = sum(parameter.numel() * 2 for parameter in Expanded(source, device=device).model.parameters())
    if not prompts or not fits_whole(expanded_bytes, device, free):
        return None
    try:
        (before, old), (after, new) = _speak(source, prompts, device), _speak(folder, prompts, device)
    except torch.OutOfMemoryError:  # another process has taken the GPU's memory in the meantime
        return None
    return Canaries(
        prompts=len(prompts),
        new_tokens=CANARY_NEW_TOKENS,
        source=before,
        checkpoint=after,
        same_tokens=sum(
            a == b for expected, actual in zip(old, new, strict=True) for a, b in zip(expected, actual, strict=True)
        )
        / sum(map(len, old)),
    )
