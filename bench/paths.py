"""Where things lie: what is expensive to make again (:mod:`quantize.paths`), configs, published figures."""

from pathlib import Path

from quantize.paths import cache_dir

__all__ = ["cache_dir", "config_dir", "published_dir"]


def _shipped(wheel: str, checkout: str) -> Path:
    """Return the absolute folder of data that a wheel holds inside the package, a checkout beside it."""
    package = Path(__file__).resolve().parent
    return package / wheel if (package / wheel).is_dir() else package.parent / checkout


def config_dir() -> Path:
    """Return the absolute folder of configs."""
    return _shipped("configs", "configs")


def published_dir() -> Path:
    """Return the absolute folder of figures that others published."""
    return _shipped("published/data", "results/published")
