"""How far a checkpoint's predictions are from its source's: KL divergence, top-1 agreement, perplexity."""

from pathlib import Path

from quantize.calibration import HELDOUT_ID, heldout_identity, heldout_windows
from quantize.checkpoint import CheckpointError, Fidelity

WINDOW = 256
"""Tokens per held-out window: long enough for context to matter, short enough for a CPU."""


def measure(source: Path, quantized: Path) -> Fidelity:
    """Compare next-token distributions of two checkpoints on the embedded held-out text.

    Both run in transformers, the quantized one as its engine would emulate it: weights expanded, activations rounded
    where the scheme rounds them. Distributions are compared in float32.

    Raises:
        CheckpointError: a logit is not a finite number.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    windows = heldout_windows(AutoTokenizer.from_pretrained(source, local_files_only=True), WINDOW)

    def log_probs(path: Path) -> list["torch.Tensor"]:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, local_files_only=True).eval()
        with torch.inference_mode():
            found = [model(torch.tensor([ids])).logits[0].float().log_softmax(-1) for ids in windows]
        if not all(bool(torch.isfinite(part).all()) for part in found):
            raise CheckpointError(f"{path}: the reloaded checkpoint computes logits that are not finite numbers")
        return found

    reference, candidate = log_probs(source), log_probs(quantized)
    kl = same = loss = source_loss = 0.0
    for ids, p, q in zip(windows, reference, candidate, strict=True):
        kl += float((p.exp() * (p - q)).sum())
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
        following = torch.tensor(ids[1:])[:, None]
        source_loss -= float(p[:-1].gather(1, following).sum())
        loss -= float(q[:-1].gather(1, following).sum())
    positions = sum(map(len, windows))
    predicted = positions - len(windows)
    return Fidelity(
        text_id=HELDOUT_ID,
        text_sha256=heldout_identity(),
        n_tokens=positions,
        kl=max(0.0, kl / positions),
        top1_agreement=same / positions,
        perplexity=float(torch.tensor(loss / predicted).exp()),
        source_perplexity=float(torch.tensor(source_loss / predicted).exp()),
    )
