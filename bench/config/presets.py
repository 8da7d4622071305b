"""The folder of configs as Hydra sees it: presets are choices, the bases that they inherit from are not.

A file whose name begins with an underscore is a base, which presets name in their ``defaults``. No completion, help or
list of known names shows it, and no ``glob(*)`` matches it.
"""

import builtins

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from bench.paths import config_dir


def is_base(name: str) -> bool:
    """Return whether a config of this name is a base that presets inherit from."""
    return name.startswith("_")


class PresetSource(FileConfigSource):
    """A folder of configs that lists its presets only; bases can be loaded all the same."""

    @staticmethod
    def scheme() -> str:
        """Return the word before ``://`` in the search path."""
        return "presets"

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """Return the groups and presets below ``config_path``."""
        return [name for name in super().list(config_path, results_filter) if not is_base(name)]


class PresetSearchPath(SearchPathPlugin):
    """Has Hydra read :func:`config_dir` through :class:`PresetSource`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Change the scheme of quantbench's own folder in the search path."""
        for element in search_path.get_path():
            if element.path == str(config_dir()):
                element.path = f"{PresetSource.scheme()}://{element.path}"


def register() -> None:
    """Register both with Hydra; a second time changes nothing."""
    Plugins.instance().register(PresetSource)
    Plugins.instance().register(PresetSearchPath)
