"""The physical limit of a speed cell: bytes and multiplications over the device's peak rates.

A decode step reads the weights once and the keys and values of every request; a prefill multiplies every prompt token
with every weight. Neither can take less time than its bytes over the memory's bandwidth, nor less than its
multiplications over the device's peak: the longer of the two is the roof (Williams, Waterman and Patterson, "Roofline:
an insightful visual performance model", CACM 52(4), 2009). :mod:`bench.limits.measured` compares cells with it.

All functions are pure. Norms, biases and activations are left out: they are below a thousandth of the rest.
"""

from collections.abc import Mapping
from typing import Any, Literal

from bench.records.record import Device
from quantize.architecture import MLP, Architecture
from quantize.checkpoint import bits_of
from quantize.formats import Format
from quantize.key import Frozen
from quantize.scheme import scheme_of

KV_BITS = {
    "auto": 16.0, "bfloat16": 16.0, "bf16": 16.0, "float16": 16.0, "fp16": 16.0, "half": 16.0,
    "fp8": 8.0, "fp8_e4m3": 8.0, "fp8_e5m2": 8.0, "int8": 8.0,
    "fp4_e2m1": 4.5,
    "float32": 32.0,
}  # fmt: skip
"""Bits of one cached key or value by the engine's name for its type, including scales; ``auto`` is the model's 16."""
WIDER = {
    "fp4": ("fp4", "fp8", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp32"),
    "int8": ("int8", "bf16", "fp32"),
    "bf16": ("bf16", "fp32"),
    "fp32": ("fp32",),
}
"""Types in which numbers of a type can be multiplied without loss."""

By = Literal["memory", "compute"]


class WeightBytes(Frozen):
    """Bytes of a model's weights that a step reads, without the input embeddings, of which it reads single rows."""

    attention_bytes: float
    """Quantized linear layers of attention, over all decoder layers."""
    mlp_bytes: float
    """The quantized MLP, or one expert, over all decoder layers."""
    experts: int
    """1 for a model without experts."""
    experts_per_token: int
    rest_bytes: float
    """Weights that are never quantized: the output head (the embeddings' table if tied, read once) and the routers."""

    def experts_read(self, tokens: float) -> float:
        """Return the expected number of distinct experts of a layer that ``tokens`` reach if each picks at random.

        E (1 - (1 - k/E)^tokens). Real routers favour some experts and reach fewer, but never fewer than k.
        """
        missed: float = (1 - self.experts_per_token / self.experts) ** tokens
        return self.experts * (1 - missed)

    def linear_bytes(self, experts: float) -> float:
        """Return the bytes of the quantized layers, with ``experts`` experts per layer."""
        return self.attention_bytes + self.mlp_bytes * experts


class Traffic(Frozen):
    """Bytes that one decode step reads, over all devices."""

    linear_bytes: float
    """The layers that a quantization shrinks."""
    rest_bytes: float
    """Weights that stay in 16 bits."""
    kv_bytes: float
    """Keys and values of all requests, at the middle of the generation."""

    @property
    def total_bytes(self) -> float:
        """Sum of all bytes."""
        return self.linear_bytes + self.rest_bytes + self.kv_bytes


class Bound(Frozen):
    """Least time of a piece of work: its bytes and multiplications, and the time of each at the peak rate."""

    moved_bytes: float
    flops: float
    memory_s: float
    compute_s: float

    @property
    def time_s(self) -> float:
        """The longer of the two: memory and arithmetic at best overlap completely."""
        return max(self.memory_s, self.compute_s)

    @property
    def by(self) -> By:
        """Which of the two is the limit."""
        return "memory" if self.memory_s >= self.compute_s else "compute"


class Limit(Frozen):
    """The physical limit of one cell.

    ``decode`` is one step with all of the cell's requests, ``prefill`` everything up to the median request's first
    token. ``least_decode`` and ``least_prefill`` are lower bounds for any server: a single request, and only the
    experts that one token needs.
    """

    device: Device
    devices: int
    multiplied_in: str
    """Type that the quantized layers are multiplied in."""
    bandwidth_bytes_per_s: float
    """Bandwidth of one device at the number of bytes that a decode step reads."""
    traffic: Traffic
    decode: Bound
    prefill: Bound
    least_decode: Bound
    least_prefill: Bound

    @property
    def roof_tpot_s(self) -> float:
        """Least time per output token of each request."""
        return self.decode.time_s

    @property
    def roof_tokens_per_s(self) -> float:
        """Highest decode speed of each request, 1 / TPOT; all requests together reach ``concurrency`` times that."""
        return 1 / self.decode.time_s

    @property
    def roof_ttft_s(self) -> float:
        """Least time to first token of the median request."""
        return self.prefill.time_s


def active_parameters(architecture: Architecture) -> int:
    """Return the number of weights that one token uses, including embeddings, as model cards count them."""
    idle = architecture.experts - architecture.experts_per_token if architecture.experts else 0
    return architecture.parameters() - idle * architecture.layers * architecture.mlp_parameters()


def linear_flops(architecture: Architecture) -> float:
    """Return the multiplications and additions of one token in the linear layers of all decoder layers."""
    return 2.0 * architecture.active_linear_parameters()


def _head_parameters(architecture: Architecture) -> int:
    return architecture.vocab_size * architecture.hidden_size


def _router_parameters(architecture: Architecture) -> int:
    return architecture.layers * architecture.experts * architecture.hidden_size


def bits_per_weight(form: Format, architecture: Architecture) -> float:
    """Return the stored bits per quantized weight of a format, including scales and zero points.

    For planning; a checkpoint's manifest has the size that was actually stored.
    """
    bits = weights = 0.0
    for name, (rows, columns) in architecture.linear_shapes().items():
        times = max(1, architecture.experts) if name in MLP else 1
        for tensor in form.stored(rows, columns).values():
            size = 1
            for length in tensor.shape:
                size *= length
            bits += times * size * min(map(bits_of, tensor.dtypes))
        weights += times * rows * columns
    return bits / weights


def weight_bytes(
    architecture: Architecture, bits_per_quantized_weight: float | None, *, plain_bits: int = 16
) -> WeightBytes:
    """Return a model's weights in bytes.

    Args:
        architecture: the model's shapes.
        bits_per_quantized_weight: bits of the linear layers, including scales; None where nothing is quantized.
        plain_bits: bits of every weight that is not quantized.
    """
    bytes_per_weight = (bits_per_quantized_weight or plain_bits) / 8
    return WeightBytes(
        attention_bytes=bytes_per_weight * architecture.layers * architecture.attention_parameters(),
        mlp_bytes=bytes_per_weight * architecture.layers * architecture.mlp_parameters(),
        experts=max(1, architecture.experts),
        experts_per_token=architecture.experts_per_token if architecture.experts else 1,
        rest_bytes=plain_bits / 8 * (_head_parameters(architecture) + _router_parameters(architecture)),
    )


def kv_bytes_per_token(architecture: Architecture, kv_cache_dtype: str = "auto") -> float:
    """Return the bytes of one token's keys and values in all layers.

    Raises:
        KeyError: the type is not in ``KV_BITS``.
    """
    values = 2 * architecture.layers * architecture.kv_heads * architecture.head_dim
    return values * KV_BITS[kv_cache_dtype] / 8


def bandwidth(device: Device, size: float) -> float:
    """Return the bandwidth, in bytes per second, at which a device can repeatedly read ``size`` bytes.

    Caches make small sizes faster. Where the bandwidth was measured by size, this is the highest of the largest
    measured size up to ``size`` and of all sizes above it. A size between two measured ones so takes the faster figure,
    because the peak must not be too low.
    """
    sizes = device.bandwidth_by_size
    if not sizes:
        return device.bandwidth_bytes_per_s
    below = max((measured_bytes for measured_bytes, _ in sizes if measured_bytes <= size), default=0)
    return max(speed for measured_bytes, speed in sizes if measured_bytes >= below)


def peak(device: Device, kind: str) -> float:
    """Return the FLOPs per second of a device for numbers of type ``kind``.

    This is the highest of the type's own peak and those of the wider types in which its numbers can be multiplied; on
    a device without FP8 units it is that of bf16.
    """
    return max(device.flops_per_s[wide] for wide in WIDER.get(kind, WIDER["bf16"]) if wide in device.flops_per_s)


def multiplied_in(quantization_config: Mapping[str, Any] | None) -> str:
    """Return the type in which a checkpoint's quantized layers are multiplied, e.g. ``fp8`` or ``int8``.

    Where only the weights are quantized (W4A16, W8A16), they are expanded first and multiplied in ``bf16``.

    Raises:
        CheckpointError: the config is of an unsupported kind.
    """
    inputs = scheme_of(quantization_config).form.activations if quantization_config else None
    if inputs is None:
        return "bf16"
    return f"{'fp' if inputs.type == 'float' else 'int'}{inputs.num_bits}"


def limit(
    architecture: Architecture,
    weights: WeightBytes,
    device: Device,
    *,
    input_len: int,
    output_len: int,
    concurrency: int = 1,
    sent_together: bool = True,
    devices: int = 1,
    kv_cache_dtype: str = "auto",
    multiplied_in: str = "bf16",
) -> Limit:
    """Return the physical limit of one shape of load.

    Args:
        architecture: the model's shapes.
        weights: its weights, from :func:`weight_bytes`.
        device: one of the devices.
        input_len: tokens of each prompt.
        output_len: tokens of each answer; a step reads the keys and values at its middle, which is the mean.
        concurrency: requests that decode together.
        sent_together: whether they are sent at once, so that the median request's first token comes after
            (concurrency + 1) / 2 prompts; otherwise a prompt may have the device to itself.
        devices: number of devices that the model is split over, without any communication cost.
        kv_cache_dtype: a key of ``KV_BITS``.
        multiplied_in: type in which the quantized layers are multiplied, from :func:`multiplied_in`.

    Raises:
        KeyError: ``kv_cache_dtype`` is unknown.
    """
    per_token = kv_bytes_per_token(architecture, kv_cache_dtype)
    kept_in = "fp8" if KV_BITS[kv_cache_dtype] <= 8 else "bf16"
    linear = linear_flops(architecture)
    head, routers = _head_parameters(architecture), _router_parameters(architecture)
    attention_width = 4 * architecture.layers * architecture.heads * architecture.head_dim
    context = input_len + output_len / 2

    def bound(traffic: Traffic, quantized_flops: float, rest_flops: float, attention_flops: float) -> Bound:
        moved = traffic.total_bytes
        compute_s = (
            quantized_flops / peak(device, multiplied_in)
            + rest_flops / peak(device, "bf16")
            + attention_flops / peak(device, kept_in)
        )
        return Bound(
            moved_bytes=moved,
            flops=quantized_flops + rest_flops + attention_flops,
            memory_s=moved / bandwidth(device, moved / devices) / devices,
            compute_s=compute_s / devices,
        )

    def traffic(experts: float, kv_tokens: float) -> Traffic:
        return Traffic(
            linear_bytes=weights.linear_bytes(experts), rest_bytes=weights.rest_bytes, kv_bytes=kv_tokens * per_token
        )

    def decode(requests: int, experts: float) -> Bound:
        return bound(
            traffic(experts, requests * context),
            requests * linear,
            2.0 * requests * (head + routers),
            requests * attention_width * context,
        )

    def prefill(prompts: float, experts: float) -> Bound:
        tokens = prompts * input_len
        return bound(
            traffic(experts, tokens),
            tokens * linear,
            2.0 * (tokens * routers + prompts * head),
            # Causal attention: a token attends to those before it, half of the prompt on average.
            prompts * attention_width * input_len**2 / 2,
        )

    prompts = (concurrency + 1) / 2 if sent_together else 1.0
    step = traffic(weights.experts_read(concurrency), concurrency * context)
    return Limit(
        device=device,
        devices=devices,
        multiplied_in=multiplied_in,
        bandwidth_bytes_per_s=bandwidth(device, step.total_bytes / devices),
        traffic=step,
        decode=decode(concurrency, weights.experts_read(concurrency)),
        prefill=prefill(prompts, weights.experts_read(prompts * input_len)),
        least_decode=decode(1, weights.experts_per_token),
        least_prefill=prefill(1, weights.experts_per_token),
    )
