"""The config folder as Hydra sees it: presets can be chosen, the bases that they inherit from cannot.

A file whose name begins with an underscore is a base, which presets name in their ``defaults``. Bases appear in no
completion, help or list of known names, and ``glob(*)`` does not match them.
"""

import builtins

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from bench.paths import config_dir


def is_base(name: str) -> bool:
    """Return whether a config name is that of a base."""
    return name.startswith("_")


class PresetSource(FileConfigSource):
    """A config folder that lists only presets; bases can be loaded but are not listed."""

    @staticmethod
    def scheme() -> str:
        """Return the URL scheme used in the search path."""
        return "presets"

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """Return the groups and presets below ``config_path``."""
        return [name for name in super().list(config_path, results_filter) if not is_base(name)]


class PresetSearchPath(SearchPathPlugin):
    """Makes Hydra read :func:`config_dir` through :class:`PresetSource`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Change the scheme of quantbench's folder in the search path."""
        for element in search_path.get_path():
            if element.path == str(config_dir()):
                element.path = f"{PresetSource.scheme()}://{element.path}"


def register() -> None:
    """Register both classes with Hydra; idempotent."""
    Plugins.instance().register(PresetSource)
    Plugins.instance().register(PresetSearchPath)
