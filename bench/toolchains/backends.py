"""Which interpreter and which library versions make a checkpoint's weights: the current ones, or a toolchain's.

A backend that has a toolchain always runs in it: packages of the same name beside another transformers would fail.
"""

from collections.abc import Iterable

from bench.machine.environment import installed_versions
from bench.toolchains import toolchain
from quantize.backend import Backend, backend

NOT_DECISIVE = ("datasets", "huggingface_hub")
"""Packages that carry data without changing it: no part of a key."""


def deciding_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed and decide a result."""
    return installed_versions(name for name in sorted(packages) if name not in NOT_DECISIVE)


def _is_extra(library: Backend) -> bool:
    """Return whether a backend belongs to quantbench's own environment."""
    return all(package in toolchain.EXTRA_OF for package in library.packages)


def backend_interpreter(name: str, what: str) -> str:
    """Return the Python interpreter that a backend runs in.

    Args:
        name: of the backend, as in ``quant.backend``.
        what: what it is for, for the message.

    Raises:
        ToolchainError: its packages are not installed, or its toolchain is not built; says what to type.
    """
    library = backend(name)
    if _is_extra(library):
        return toolchain.interpreter_for(library.packages, what)
    return toolchain.toolchain_interpreter(library.toolchain, what)


def backend_versions(name: str) -> dict[str, str]:
    """Return the versions of the packages that decide what a backend writes, by name."""
    library = backend(name)
    if _is_extra(library):
        return deciding_versions(library.packages)
    return toolchain.pinned_versions(library.toolchain)
