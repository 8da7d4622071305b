"""Multiply BF16 matrices in float32 on a CPU without BF16 instructions.

PyTorch's product of BF16 matrices is eight times slower than that of float32 matrices on a CPU without BF16
instructions (measured on an AVX2 machine, 512 rows, one thread: 205 ms against 27 ms). Multiplying in float32 and
rounding once gives the same result as these instructions, which add in float32 too.
"""

from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
FEW = 4
"""Most rows for which reading the weights takes longer than multiplying."""


def has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the CPU has BF16 instructions (AVX-512 BF16, AMX, ARM's BF16); True if this is unknown."""
    return not cpuinfo.exists() or "bf16" in cpuinfo.read_text()


def multiply_in_float32() -> None:
    """Make all linear layers of this process multiply BF16 in float32 from now on, if that is faster on this CPU."""
    import torch
    from torch.nn import functional

    plain = functional.linear
    if has_bf16() or hasattr(plain, "plain"):
        return

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        wide = x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu" and x[..., 0].numel() > FEW
        if not wide:
            return plain(x, weight, bias)
        return plain(x.float(), weight.float(), None if bias is None else bias.float()).bfloat16()

    linear.plain = plain  # type: ignore[attr-defined]
    functional.linear = linear  # type: ignore[assignment]
