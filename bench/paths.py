"""Folders: the cache (:mod:`quantize.paths`), the configs and the published figures."""

from pathlib import Path

from quantize.paths import cache_dir

__all__ = ["cache_dir", "config_dir", "published_dir"]


def _shipped(wheel: str, checkout: str) -> Path:
    """Return the absolute folder of shipped data: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / wheel if (package / wheel).is_dir() else package.parent / checkout


def config_dir() -> Path:
    """Return the absolute path of the config folder."""
    return _shipped("configs", "configs")


def published_dir() -> Path:
    """Return the absolute path of the folder with published figures."""
    return _shipped("published/data", "results/published")
