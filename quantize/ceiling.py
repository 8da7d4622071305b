"""How far a checkpoint's predictions may be from its source's before it is refused.

Divergence depends on the model and on the bits more than on the method, so the limit is relative to what rounding to
nearest in the same format costs on the same text.
"""

from quantize.checkpoint import Fidelity

MOST_ROUNDING = 1.5
"""Highest ratio of a checkpoint's KL divergence to that of rounding to nearest. Measured: docs/decisions/0028."""
SLACK_NATS = 0.002
"""Added to the limit: models that barely react to rounding differ by chance."""


def ceiling(fidelity: Fidelity, max_kl: float | None) -> float | None:
    """Return the highest KL divergence that is accepted, in nats per token; None if no limit is known.

    Args:
        fidelity: figures of the checkpoint.
        max_kl: the user's own limit, nats per token; None for one relative to rounding to nearest.
    """
    if max_kl is not None or fidelity.rounding_kl_nats is None:
        return max_kl
    return MOST_ROUNDING * fidelity.rounding_kl_nats + SLACK_NATS


def too_far(fidelity: Fidelity, max_kl: float | None) -> str | None:
    """Return why a checkpoint's predictions are too far from its source's, or None; arguments as of `ceiling`."""
    limit = ceiling(fidelity, max_kl)
    # Written so that a figure that is not a number is too far.
    if limit is None or fidelity.kl_nats <= limit:
        return None
    why = f"KL to the source is {fidelity.kl_nats:.3g} nats per token, above the ceiling of {limit:.3g}"
    if max_kl is None:
        why += f" ({MOST_ROUNDING:g} times that of rounding to nearest, {fidelity.rounding_kl_nats:.3g})"
    return f"{why}; calibrate on more text, or accept it with quant.max_kl=…"
