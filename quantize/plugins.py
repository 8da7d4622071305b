"""Find a plug-in by the name of its module. A new plug-in is a new file; there is no registry to edit."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


class PluginError(Exception):
    """There is no such plug-in, or its module is invalid."""


def names(package: str) -> list[str]:
    """Return the names of all modules of a package such as ``quantize.methods``."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known name most similar to ``name``; a full stop if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else "."


def module_named(package: str, name: str) -> ModuleType:
    """Import module ``name`` of a package; a dash in the name is an underscore in the file's name.

    Raises:
        PluginError: there is no such module; lists similar and known names, and the file to create.
    """
    known, name = names(package), name.replace("-", "_")
    if name not in known:
        raise PluginError(
            f"no module '{name}' in {package}{nearest(name, known)} Known: {', '.join(known)}. "
            f"To add one, create {package.replace('.', '/')}/{name}.py."
        )
    return importlib.import_module(f"{package}.{name}")


def class_named(package: str, name: str, base: type[T]) -> type[T]:
    """Return the subclass of ``base`` that module ``name`` of a package defines.

    Raises:
        PluginError: there is no such module, or it does not define exactly one subclass.
    """
    module = module_named(package, name)
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    subclasses = [kind for kind in own if issubclass(kind, base)]
    if len(subclasses) != 1:
        raise PluginError(
            f"{module.__name__} must define one subclass of {base.__name__}, but defines {len(subclasses)}"
        )
    return subclasses[0]
