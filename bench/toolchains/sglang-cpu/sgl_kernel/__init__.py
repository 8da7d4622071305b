"""A stub of SGLang's CUDA kernels: SGLang imports the package on a CPU too, but uses none of it for BF16."""

from collections.abc import Callable
from typing import Any, NoReturn


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Return a function that refuses to compute; raise AttributeError for Python's own attributes of the package."""
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} does not exist on a CPU")

    return missing
