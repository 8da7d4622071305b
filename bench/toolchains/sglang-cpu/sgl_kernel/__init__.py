"""Stands in for SGLang's CUDA kernels: SGLang imports the package on a CPU too, and needs none of it for BF16."""

from collections.abc import Callable
from typing import Any, NoReturn


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Return a function that refuses to compute; Python's own questions about the package stay unanswered."""
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} does not exist on a CPU")

    return missing
