"""Where quantbench keeps what is expensive to make again: outside every checkout."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``QUANTBENCH_CACHE``, else ``~/.cache/quantbench``."""
    return Path(os.environ.get("QUANTBENCH_CACHE") or "~/.cache/quantbench").expanduser().absolute()
