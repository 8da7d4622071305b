"""The folder for results that are expensive to reproduce, outside every checkout."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``QUANTBENCH_CACHE``, or else ``~/.cache/quantbench``."""
    return Path(os.environ.get("QUANTBENCH_CACHE") or "~/.cache/quantbench").expanduser().absolute()
