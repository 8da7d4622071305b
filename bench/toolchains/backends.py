"""Which interpreter and which library versions make a checkpoint's weights: the current ones, or a toolchain's.

A backend that has a toolchain always runs in it: packages of the same name beside another transformers would fail.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from types import ModuleType

from bench.toolchains import toolchain

NOT_DECISIVE = ("datasets", "huggingface_hub")
"""Packages that carry data without changing it: no part of a key."""


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the packages that are installed and decide a result."""
    deciding = (name for name in sorted(packages) if name not in NOT_DECISIVE)
    return {name: importlib.metadata.version(name) for name in deciding if importlib.util.find_spec(name)}


def _module(backend: str) -> ModuleType:
    return importlib.import_module(f"quantize.backends.{backend.replace('-', '_')}")


def _is_extra(module: ModuleType) -> bool:
    """Tell whether the backend belongs into quantbench's own environment."""
    return all(package in toolchain.EXTRA_OF for package in module.PACKAGES)


def backend_interpreter(backend: str, what: str) -> str:
    """Return the Python interpreter that a backend runs in.

    Args:
        backend: its name, as in ``quant.backend``.
        what: what it is for, for the message.

    Raises:
        ToolchainError: its packages are not installed, or its toolchain is not built; says what to type.
    """
    module = _module(backend)
    if _is_extra(module):
        return toolchain.interpreter_for(module.PACKAGES, what)
    return toolchain.toolchain_interpreter(module.TOOLCHAIN, what)


def backend_versions(backend: str) -> dict[str, str]:
    """Return the versions of the packages that decide what a backend writes, by name."""
    module = _module(backend)
    if _is_extra(module):
        return versions(module.PACKAGES)
    return toolchain.pinned_versions(module.TOOLCHAIN)
