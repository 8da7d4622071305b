"""The hardware and software of a run, read once at its start."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psutil

from bench import __version__
from bench.machine import event_loop
from bench.records.record import Environment

PACKAGES = (
    "torch", "transformers", "compressed-tensors", "llmcompressor", "lm-eval", "datasets", "aiohttp", "hydra-core",
    "tokenizers", "numpy",
)  # fmt: skip
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
)  # fmt: skip


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each named package that is installed."""
    installed: dict[str, str] = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def cpu_name() -> str:
    """Return the name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpus() -> tuple[str, ...]:
    """Return one line per NVIDIA GPU (name, memory, driver); empty without a GPU."""
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return tuple(answer.stdout.splitlines()) if answer.returncode == 0 else ()


def _git(*arguments: str) -> str | None:
    """Return git's output about the checkout that this code runs from; None for an installed package."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists() or not shutil.which("git"):
        return None
    answer = subprocess.run(["git", "-C", str(top), *arguments], capture_output=True, text=True, timeout=20)
    return answer.stdout.strip() if answer.returncode == 0 else None


def read_environment() -> Environment:
    """Return the environment of this process."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return Environment(
        hostname=socket.gethostname(),
        os=platform.platform(),
        python=platform.python_version(),
        cpu=cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus(),
        packages={"quantbench": __version__, **installed_versions(PACKAGES)},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        event_loop=event_loop.NAME,
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=bool(status) if status is not None else None,
    )
