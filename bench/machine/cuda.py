"""Check whether this machine has a CUDA device, without slow imports."""

import shutil
import subprocess

NVIDIA_SMI_S = 20
"""Longest time to wait for nvidia-smi. Chosen: it takes seconds where it has to load the driver first."""


def has_cuda_device() -> bool:
    """Return whether nvidia-smi is installed, works and lists a device."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and "GPU " in done.stdout
