"""Continue a few prompts with a checkpoint and with its source: a broken model repeats itself or knows nothing."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from quantize.checkpoint import Canaries, Speech, own_code
from quantize.device import FreeMemory, fits_whole
from quantize.expanded import Expanded

CANARIES = 4
CANARY_PROMPT_TOKENS = 16
CANARY_NEW_TOKENS = 24
"""Number of prompts, and tokens of each. Chosen: takes seconds on a CPU, and a few words show a broken model."""


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
