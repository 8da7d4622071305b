"""The interpreter and library versions that produce a checkpoint's weights: the current ones, or a toolchain's.

A backend with a toolchain always runs in it, because the same packages would fail with a different transformers.
"""

from collections.abc import Iterable

from bench.machine.environment import installed_versions
from bench.toolchains import toolchain
from quantize.backend import Backend, backend

NOT_DECISIVE = ("datasets", "huggingface_hub")
"""Packages that transfer data without changing it, and so are not part of a key."""


def deciding_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages that affect a result."""
    return installed_versions(name for name in sorted(packages) if name not in NOT_DECISIVE)


def _is_extra(library: Backend) -> bool:
    """Return whether a backend belongs to quantbench's own environment."""
    return all(package in toolchain.EXTRA_OF for package in library.packages)


def backend_interpreter(name: str, what: str) -> str:
    """Return the Python interpreter that a backend runs in.

    Args:
        name: name of the backend, as in ``quant.backend``.
        what: what needs it, for the message.

    Raises:
        ToolchainError: its packages are not installed, or its toolchain is not built; names the command.
    """
    library = backend(name)
    if _is_extra(library):
        return toolchain.interpreter_for(library.packages, what)
    return toolchain.toolchain_interpreter(library.toolchain, what)


def backend_versions(name: str) -> dict[str, str]:
    """Return the versions of the packages that affect a backend's weights, by name."""
    library = backend(name)
    if _is_extra(library):
        return deciding_versions(library.packages)
    return toolchain.pinned_versions(library.toolchain)
