"""Find a plug-in by the name of its module: a method, a model source, an engine."""

import importlib
import pkgutil
from types import ModuleType

from bench.errors import ConfigError, nearest


def plugin(package: str, name: str) -> ModuleType:
    """Import module ``name`` of a plug-in package such as ``quantize.methods``.

    Raises:
        ConfigError: there is no such module; names the known ones and the file to create.
    """
    known = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    if name not in known:
        raise ConfigError(
            f"no module '{name}' in {package}{nearest(name, known)} "
            f"Known: {', '.join(known)}. To add one, create {package.replace('.', '/')}/{name}.py."
        )
    return importlib.import_module(f"{package}.{name}")
