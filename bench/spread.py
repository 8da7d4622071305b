"""How many devices a model needs, and how it is spread over them. Pure arithmetic on shapes.

Within a machine each layer is split (tensor parallelism, tp); machines take layers in turn (pipeline parallelism, pp).
A layer can be split in ``tp`` only if its heads can, and if no split cuts through weights that share a scale: then
SGLang and vLLM refuse to load. Experts can be dealt out whole instead (expert parallelism, ep).
"""

from collections.abc import Iterator

from bench.roofline import kv_bytes_per_token
from quantize.architecture import Architecture
from quantize.formats import Format
from quantize.key import Frozen

BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Layers whose output features are split; the others' input features are."""
MLP = ("gate_proj", "up_proj", "down_proj")
MOST_MACHINES = 16


class Spread(Frozen):
    """One way to spread a model."""

    tp: int
    pp: int
    ep: int
    """1 where experts, if there are any, are split like other layers."""
    weights_bytes: float
    """Of one device."""
    kv_bytes: float
    """Of one device, for all tokens that are held at once."""
    budget_bytes: float
    """What a server may take of one device."""

    @property
    def devices(self) -> int:
        """All of them."""
        return self.tp * self.pp

    @property
    def fits(self) -> bool:
        """Whether weights, keys and values are within the budget."""
        return self.weights_bytes + self.kv_bytes <= self.budget_bytes


def refusal(architecture: Architecture, form: Format | None, tp: int, *, whole_experts: bool = False) -> str | None:
    """Return why layers cannot be split in ``tp``; None if they can.

    Args:
        architecture: the model's shapes.
        form: how quantized layers are stored; None if nothing is quantized.
        tp: devices that each layer is split over.
        whole_experts: experts are dealt out instead of split.
    """
    heads, kv_heads = architecture.heads, architecture.kv_heads
    if heads % tp:
        return f"{heads} heads cannot be split in {tp}"
    if kv_heads % tp and tp % kv_heads:
        return f"{kv_heads} key and value heads can be neither split in {tp} nor copied evenly"
    if whole_experts and architecture.experts % tp:
        return f"{architecture.experts} experts cannot be dealt out to {tp} devices"
    for name, (rows, columns) in architecture.linear_shapes().items():
        if whole_experts and name in MLP and architecture.experts:
            continue
        parts = min(tp, kv_heads) if name in ("k_proj", "v_proj") else tp
        by_rows = name in BY_ROWS
        size = rows if by_rows else columns
        if size % parts:
            return f"{name}: {size} cannot be split in {parts}"
        shared = (form.rows_per_scale if by_rows else form.columns_per_scale) if form else None
        if shared and shared > 1 and (size // parts) % shared:
            return f"{name}: {size} / {parts} = {size // parts} cuts through blocks of {shared} that share a scale"
    return None


def spread(
    architecture: Architecture,
    form: Format | None,
    *,
    weights_bytes: float,
    kv_tokens: int,
    kv_cache_dtype: str,
    budget_bytes: float,
    tp: int,
    pp: int = 1,
    whole_experts: bool = False,
) -> Spread:
    """Return what each device holds; keys and values are copied where there are more devices than their heads."""
    kv = kv_tokens * kv_bytes_per_token(architecture, kv_cache_dtype) / pp / min(tp, architecture.kv_heads)
    return Spread(
        tp=tp,
        pp=pp,
        ep=tp if whole_experts else 1,
        weights_bytes=weights_bytes / (tp * pp),
        kv_bytes=kv,
        budget_bytes=budget_bytes,
    )


def _sizes(per_machine: int) -> Iterator[tuple[int, int]]:
    tp = 1
    while tp <= per_machine:
        yield tp, 1
        tp *= 2
    for machines in range(2, MOST_MACHINES + 1):
        yield tp // 2, machines


def fewest(
    architecture: Architecture,
    form: Format | None,
    *,
    weights_bytes: float,
    kv_tokens: int,
    kv_cache_dtype: str,
    budget_bytes: float,
    per_machine: int,
) -> tuple[Spread | None, tuple[str, ...]]:
    """Return the spread over the fewest devices that fits, and why smaller or simpler ones do not.

    Args:
        architecture: the model's shapes.
        form: how quantized layers are stored; None if nothing is quantized.
        weights_bytes: of the whole checkpoint.
        kv_tokens: tokens whose keys and values are held at once.
        kv_cache_dtype: a key of :data:`bench.roofline.KV_BITS`.
        budget_bytes: what a server may take of one device.
        per_machine: devices of one machine.
    """
    why: list[str] = []
    for tp, pp in _sizes(per_machine):
        for whole in (False, True) if architecture.experts and tp > 1 else (False,):
            reason = refusal(architecture, form, tp, whole_experts=whole)
            found = spread(
                architecture,
                form,
                weights_bytes=weights_bytes,
                kv_tokens=kv_tokens,
                kv_cache_dtype=kv_cache_dtype,
                budget_bytes=budget_bytes,
                tp=tp,
                pp=pp,
                whole_experts=whole,
            )
            if reason is not None:
                why.append(f"tp {tp}{', whole experts' if whole else ''}: {reason}")
            elif found.fits:
                return found, tuple(dict.fromkeys(why))
    return None, tuple(dict.fromkeys(why))
