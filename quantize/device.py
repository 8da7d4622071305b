"""The device that a proof computes on, and its free memory."""

from collections.abc import Callable

import torch

from quantize.memory import available_memory

FreeMemory = Callable[[torch.device], int]
"""Returns the bytes that this process may take on a device."""
WHOLE = {"cpu": 0.5, "cuda": 0.9}
"""Share of a device's free memory that a complete model may take. The host also holds files that are being read and
tensors that are being expanded; a GPU holds only the model's computation."""


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may take on a device: a GPU's own memory, or the host's."""
    if device.type != "cuda":
        return available_memory()
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved counts as used there, but this process may use it.
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def default_gpu() -> torch.device | None:
    """Return torch's default GPU; None without a GPU."""
    return torch.device("cuda") if torch.cuda.is_available() else None


def proof_device(needed: int, gpu: torch.device | None, free: FreeMemory = free_memory) -> torch.device:
    """Return the device of a proof: the GPU if there is one with enough free memory, otherwise the CPU.

    Args:
        needed: bytes that the proof needs at its peak.
        gpu: the available GPU, or None.
        free: returns a device's free memory.
    """
    return gpu if gpu is not None and needed <= free(gpu) else torch.device("cpu")


def fits_whole(size: int, device: torch.device, free: FreeMemory = free_memory) -> bool:
    """Return whether a device has enough memory to run a complete model of ``size`` bytes; see `WHOLE`."""
    return size <= WHOLE[device.type] * free(device)
