"""How many devices a model needs, and how it is sharded over them. Pure arithmetic on shapes.

Within a machine each layer is split (tensor parallelism, tp); layers are distributed over machines (pipeline
parallelism, pp). A layer can be split into ``tp`` parts only if its heads can, and if no split cuts through weights
that share a scale: SGLang and vLLM refuse to load those. Experts can be distributed whole instead (expert parallelism,
ep).
"""

import math
from collections.abc import Iterator

from quantize.architecture import MLP, Architecture
from quantize.formats import Format
from quantize.key import Frozen

BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Layers that are split by output features; the others are split by input features."""


class Load(Frozen):
    """The memory needed on all devices together, and the budget of one device. Bytes."""

    layers_bytes: float
    """Weights of the decoder layers."""
    rest_bytes: float
    """Embeddings, output head and norms."""
    kv_bytes_per_token: float
    """Keys and values of one token in all layers."""
    kv_tokens: int
    """Tokens in the KV cache at once."""
    budget_bytes: float
    """Memory of one device that a server may use."""


class Sharding(Frozen):
    """One way to shard a model. Bytes are those of the fullest device."""

    tp: int
    pp: int
    ep: int
    """1 if experts, if any, are split like other layers."""
    weights_bytes: float
    kv_bytes: float
    """For all tokens in the KV cache at once."""
    kv_bytes_per_token: float
    budget_bytes: float
    """Memory of one device that a server may use."""

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.tp * self.pp

    @property
    def fits(self) -> bool:
        """Whether weights and KV cache fit into the budget."""
        return self.weights_bytes + self.kv_bytes <= self.budget_bytes

    @property
    def kv_capacity_tokens(self) -> int:
        """Tokens whose keys and values fit next to the weights."""
        return max(0, int((self.budget_bytes - self.weights_bytes) / self.kv_bytes_per_token))


def refusal(architecture: Architecture, form: Format | None, tp: int, *, whole_experts: bool = False) -> str | None:
    """Return why layers cannot be split into ``tp`` parts; None if they can.

    Args:
        architecture: the model's shapes.
        form: how quantized layers are stored; None if nothing is quantized.
        tp: devices that each layer is split over.
        whole_experts: experts are distributed instead of split.
    """
    heads, kv_heads = architecture.heads, architecture.kv_heads
    if heads % tp:
        return f"{heads} heads cannot be split into {tp}"
    if kv_heads % tp and tp % kv_heads:
        return f"{kv_heads} key and value heads can be neither split into {tp} nor copied evenly"
    if whole_experts and architecture.experts % tp:
        return f"{architecture.experts} experts cannot be distributed evenly over {tp} devices"
    for name, (rows, columns) in architecture.linear_shapes().items():
        if whole_experts and name in MLP and architecture.experts:
            continue
        parts = min(tp, kv_heads) if name in ("k_proj", "v_proj") else tp
        by_rows = name in BY_ROWS
        size = rows if by_rows else columns
        if size % parts:
            return f"{name}: {size} cannot be split into {parts}"
        shared = (form.rows_per_scale if by_rows else form.columns_per_scale) if form else None
        if shared and shared > 1 and (size // parts) % shared:
            return f"{name}: {size} / {parts} = {size // parts} cuts through blocks of {shared} that share a scale"
    return None


def spread(architecture: Architecture, load: Load, tp: int, pp: int = 1, *, whole_experts: bool = False) -> Sharding:
    """Return a sharding; keys and values are copied if there are more devices than key and value heads.

    Layers are distributed over machines unsplit, so one machine may have one layer more than another; the first also
    has the input embeddings and the last the head.
    """
    layers = math.ceil(architecture.layers / pp) / architecture.layers
    rest = load.rest_bytes if pp == 1 or architecture.tied_embeddings else load.rest_bytes / 2
    per_token = load.kv_bytes_per_token * layers / min(tp, architecture.kv_heads)
    return Sharding(
        tp=tp,
        pp=pp,
        ep=tp if whole_experts else 1,
        weights_bytes=(load.layers_bytes * layers + rest) / tp,
        kv_bytes=load.kv_tokens * per_token,
        kv_bytes_per_token=per_token,
        budget_bytes=load.budget_bytes,
    )


def _sizes(per_machine: int, machines: int) -> Iterator[tuple[int, int]]:
    tp = 1
    while tp <= per_machine:
        yield tp, 1
        tp *= 2
    for pp in range(2, machines + 1):
        yield tp // 2, pp


def fewest(
    architecture: Architecture, form: Format | None, load: Load, *, per_machine: int, machines: int
) -> tuple[Sharding | None, tuple[str, ...]]:
    """Return the sharding over the fewest devices that fits, and why smaller or simpler ones are refused.

    Args:
        architecture: the model's shapes.
        form: how quantized layers are stored; None if nothing is quantized.
        load: memory needed and budget.
        per_machine: devices per machine.
        machines: maximum number of machines.
    """
    why: dict[str, None] = {}
    for tp, pp in _sizes(per_machine, machines):
        for whole in (False, True) if architecture.experts and tp > 1 else (False,):
            sharding = spread(architecture, load, tp, pp, whole_experts=whole)
            if not sharding.fits:
                continue
            reason = refusal(architecture, form, tp, whole_experts=whole)
            if reason is None:
                return sharding, tuple(why)
            why[f"tp {tp}{', whole experts' if whole else ''}: {reason}"] = None
    return None, tuple(why)
