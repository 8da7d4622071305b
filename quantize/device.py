"""Which device a proof computes on, and how much of its memory is free."""

from collections.abc import Callable

import torch

from quantize.memory import available_memory

FreeMemory = Callable[[torch.device], int]
"""Returns the bytes that this process may take on a device."""
WHOLE = {"cpu": 0.5, "cuda": 0.9}
"""Share of a device's free memory that a model may take to be run whole. The host also holds files that are read and
tensors that are expanded; a GPU only what the model computes."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may take on a device: a GPU's own memory, or the host's."""
    if device.type != "cuda":
        return available_memory()
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch keeps for later tensors counts as used there, and this process may take it.
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def default_gpu() -> torch.device | None:
    """Return the GPU that torch takes unless another one is named; None where there is none."""
    return torch.device("cuda") if torch.cuda.is_available() else None


def proof_device(needed: int, gpu: torch.device | None, free: FreeMemory = free_memory) -> torch.device:
    """Return where a proof computes: on the GPU where there is one with enough free memory, else on the CPU.

    Args:
        needed: bytes that it holds at once.
        gpu: the GPU that could be used; None for none.
        free: how much of a device's memory is free.
    """
    return gpu if gpu is not None and needed <= free(gpu) else torch.device("cpu")


def fits_whole(size: int, device: torch.device, free: FreeMemory = free_memory) -> bool:
    """Tell whether a device has room to run a whole model of ``size`` bytes; see `WHOLE`."""
    return size <= WHOLE[device.type] * free(device)
