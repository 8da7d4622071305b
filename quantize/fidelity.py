"""Compare a checkpoint's predictions, layers and continuations with those of its source.

Both checkpoints run one decoder layer at a time (:mod:`quantize.expanded`), so that models larger than memory can be
compared too. Distributions are compared in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quantize.bf16 import multiply_in_float32
from quantize.canaries import CANARIES, CANARY_PROMPT_TOKENS, canaries
from quantize.checkpoint import Canaries, CheckpointError, LayerDamage, LayerError
from quantize.device import FreeMemory, free_memory
from quantize.estimate import PROBE
from quantize.expanded import Expanded
from quantize.formats import Format
from quantize.key import canonical_json, sha256_text
from quantize.layer_errors import layer_errors
from quantize.predictions import TOP, Predictions
from quantize.rounding import Rounded

BATCH_TOKENS = 2048
"""Held-out tokens in one batch. Chosen: their logits take 1.2 GB for 151,936 tokens."""
ENGINE = "quantbench, layer by layer"

Windows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class FidelityReport:
    """The results of :func:`measure`."""

    predictions: Predictions
    layer_errors: tuple[LayerError, ...]
    layer_damage: tuple[LayerDamage, ...]
    canaries: Canaries | None
    """None if the complete model does not fit on the device."""


@dataclass(frozen=True)
class Batch:
    """Windows that are computed together."""

    ids: torch.Tensor
    """Token ids (windows, positions), padded at the end with 0; attention is causal, so padding changes nothing."""
    real: torch.Tensor
    """Which positions belong to the text, of the same shape."""
    first: int
    """Number of the first window."""

    def following(self) -> torch.Tensor:
        """Return the next token at each position; -1 at the end of a window."""
        none = torch.full_like(self.ids[:, :1], -1)
        ids = torch.where(self.real, self.ids, -1)
        return torch.cat([ids[:, 1:], none], dim=1)


def _batch(windows: Windows, first: int, device: torch.device) -> Batch:
    longest = max(map(len, windows))
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in windows], device=device)
    real = torch.tensor([[place < len(ids) for place in range(longest)] for ids in windows], device=device)
    return Batch(ids, real, first)


def _batches(windows: Windows, device: torch.device) -> list[Batch]:
    """Return the windows in batches of about ``BATCH_TOKENS`` tokens."""
    at_once = max(1, BATCH_TOKENS // max(map(len, windows)))
    return [_batch(windows[begin : begin + at_once], begin, device) for begin in range(0, len(windows), at_once)]


def _probe(windows: Windows) -> Windows:
    """Return the beginnings of windows that are spread over the text; see `PROBE`."""
    count, length = PROBE
    step = max(1, len(windows) // count)
    return [window[:length] for window in windows[::step]][:count]


def measure(
    source: Path,
    folder: Path,
    windows: Windows,
    text_id: str,
    *,
    device: torch.device,
    free: FreeMemory = free_memory,
) -> FidelityReport:
    """Compare two checkpoints on windows of held-out token ids.

    Args:
        source: the 16-bit checkpoint.
        folder: the quantized one.
        windows: token ids of each window.
        text_id: the name of their text.
        device: computes the comparison; one decoder layer of each must fit in its memory.
        free: returns a device's free memory.

    Raises:
        CheckpointError: a weight is missing, or a logit is not a finite number.
    """
    multiply_in_float32()
    reference, candidate = Expanded(source, device=device), Expanded(folder, device=device)
    predictions, errors, damage = _compare(reference, candidate, windows, text_id, probe=_probe(windows))
    prompts = [ids[:CANARY_PROMPT_TOKENS] for ids in windows if len(ids) > CANARY_PROMPT_TOKENS][:CANARIES]
    del reference, candidate
    return FidelityReport(predictions, errors, damage, canaries(source, folder, prompts, device=device, free=free))


def rounding_kl(source: Path, forms: Mapping[str, Format], windows: Windows, *, device: torch.device) -> float:
    """Return the KL divergence of rounding a source's weights to nearest, in nats per token.

    Args:
        source: the 16-bit checkpoint.
        forms: how weights and inputs are rounded, by name of the layer.
        windows: token ids of each window.
        device: computes it, as for :func:`measure`.
    """
    multiply_in_float32()
    rounded = Rounded(source, forms, device=device)
    predictions, _, _ = _compare(Expanded(source, device=device), rounded, windows, "", probe=())
    return float(predictions.kl_nats.mean(dtype=np.float64))


def _compare(
    reference: Expanded, candidate: Expanded, windows: Windows, text_id: str, *, probe: Windows
) -> tuple[Predictions, tuple[LayerError, ...], tuple[LayerDamage, ...]]:
    """Run two checkpoints layer by layer; return (predictions, errors of layers, damage by decoder layer).

    Damage is measured by putting each decoder layer of the source back into the checkpoint: the state behind it goes
    through the checkpoint's other layers together with those of all earlier ones, so that each layer is read once.
    """
    errors: list[LayerError] = []
    with torch.inference_mode():
        embed, norm, head = reference.ends()
        its_embed, its_norm, its_head = candidate.ends()
        batches = _batches(windows, reference.device)
        states = [embed(batch.ids) for batch in batches]
        its_states = [its_embed(batch.ids) for batch in batches]
        probed = _batch(probe, 0, reference.device) if probe else None
        put_back: list[torch.Tensor] = []
        if probed:
            state, its_state = embed(probed.ids), its_embed(probed.ids)
        for number in range(reference.n_layers):
            a, b = reference.layer(number), candidate.layer(number)
            if probed:
                errors += layer_errors(number, (a, b), reference, hidden=state, real=probed.real)
                put_back = [candidate.run(b, other) for other in put_back]
                put_back.append(reference.run(a, its_state))
                state, its_state = reference.run(a, state), candidate.run(b, its_state)
            states = [reference.run(a, hidden) for hidden in states]
            its_states = [candidate.run(b, hidden) for hidden in its_states]
            del a, b  # before the next two are read, so that memory holds one layer of each
        rows = []
        for batch, hidden, its_hidden in zip(batches, states, its_states, strict=True):
            p = head(norm(hidden)).float().log_softmax(-1)[batch.real]
            q = its_head(its_norm(its_hidden)).float().log_softmax(-1)[batch.real]
            for name, logits in (("source", p), ("written checkpoint", q)):
                if not bool(torch.isfinite(logits).all()):
                    raise CheckpointError(f"the {name} computes logits that are not finite numbers")
            rows.append(_rows(batch, p, q))
        damage: list[LayerDamage] = []
        if probed:
            p = head(norm(state)).float().log_softmax(-1)[probed.real]
            q = its_head(its_norm(its_state)).float().log_softmax(-1)[probed.real]
            kl = _kl(p, q)
            for number, other in enumerate(put_back):
                less = kl - _kl(p, its_head(its_norm(other)).float().log_softmax(-1)[probed.real])
                damage.append(_damage(number, less.split(probed.real.sum(1).tolist())))
    columns = {name: np.concatenate([row[name].cpu().numpy() for row in rows]) for name in rows[0]}
    digest = sha256_text(canonical_json(windows))
    predictions = Predictions(engine=ENGINE, text_id=text_id, text_sha256=digest, **columns)
    return predictions, tuple(errors), tuple(damage)


def _damage(layer: int, windows: Sequence[torch.Tensor]) -> LayerDamage:
    """Return the damage of a layer from the KL divergence that it adds at each position of each window."""
    values = torch.cat(list(windows))
    means = torch.stack([window.mean() for window in windows])
    error = float(means.std() / len(means) ** 0.5) if len(means) > 1 else None
    return LayerDamage(layer=layer, kl_nats=float(values.mean()), standard_error_nats=error)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) of each row of two matrices of log-probabilities, in nats."""
    return (p.exp() * (p - q)).sum(-1)


def _rows(batch: Batch, p: torch.Tensor, q: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the columns of `Predictions` for the positions of a batch, whose log-probabilities are p and q."""
    windows, length = batch.ids.shape
    document = batch.first + torch.arange(windows, device=p.device)[:, None].expand(windows, length)
    position = torch.arange(length, device=p.device).expand(windows, length)
    following = batch.following()[batch.real]
    chosen, predicted = following.clamp_min(0)[:, None], following >= 0
    source_top, top = p.topk(min(TOP, p.shape[1])), q.topk(min(TOP, q.shape[1]))
    return {
        "document": document[batch.real].int(),
        "position": position[batch.real].int(),
        "following": following.int(),
        "source_logprob": p.gather(1, chosen)[:, 0] * predicted,
        "logprob": q.gather(1, chosen)[:, 0] * predicted,
        "kl_nats": _kl(p, q),
        "source_top": source_top.indices.int(),
        "source_top_logprobs": source_top.values,
        "top": top.indices.int(),
        "top_logprobs": top.values,
    }
