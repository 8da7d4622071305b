"""Sampling a token from logits, and log-probabilities of tokens."""

from collections.abc import Sequence

import torch

from bench.servers.reference.protocol import SamplingParams

Entry = tuple[float | None, int, None]
"""SGLang's format: (log-probability in nats, token id, text). The first prompt token has no log-probability, and the
text is never sent."""


def generator_for(params: SamplingParams, device: torch.device) -> torch.Generator:
    """Return a request's random generator, seeded by the request or else by the operating system."""
    generator = torch.Generator(device)
    if params.sampling_seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.sampling_seed)
    return generator


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Return ``logits`` unchanged.

    Raises:
        ArithmeticError: a logit is NaN or infinite, so that anything derived from it would be noise.
    """
    if not torch.isfinite(logits).all():
        raise ArithmeticError("the model computed logits that are not finite numbers")
    return logits


def choose(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    """Return the next token.

    Args:
        logits: (vocabulary,) float32.
        params: temperature 0 takes the most likely token; otherwise top_k, top_p and min_p limit the candidates.
        generator: random generator.
    """
    if params.temperature == 0:
        return int(logits.argmax())
    candidates = min(params.top_k, len(logits)) if params.top_k > 0 else len(logits)
    ordered, tokens = (logits / params.temperature).topk(candidates)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # The most likely token always stays a candidate, however small top_p is.
    too_rare = (before >= params.top_p) | (probabilities < params.min_p * probabilities[0])
    probabilities[1:][too_rare[1:]] = 0
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])


def entries(logprobs: torch.Tensor, tokens: Sequence[int]) -> list[Entry]:
    """Return the entries of ``tokens``, one per row of ``logprobs`` (rows, vocabulary)."""
    picked = logprobs.gather(1, torch.tensor(tokens, device=logprobs.device)[:, None])[:, 0]
    return [(value, token, None) for value, token in zip(picked.tolist(), tokens, strict=True)]


def top_entries(logprobs: torch.Tensor, count: int) -> list[list[Entry]]:
    """Return the ``count`` most likely tokens of each row of ``logprobs`` (rows, vocabulary), best first."""
    values, tokens = logprobs.topk(count)
    return [
        [(value, token, None) for value, token in zip(*row, strict=True)]
        for row in zip(values.tolist(), tokens.tolist(), strict=True)
    ]


def entries_of_each(logprobs: torch.Tensor, tokens: Sequence[int]) -> list[list[Entry]]:
    """Return the entries of all ``tokens`` for each row of ``logprobs`` (rows, vocabulary)."""
    picked = logprobs[:, list(tokens)].tolist()
    return [[(value, token, None) for value, token in zip(row, tokens, strict=True)] for row in picked]
