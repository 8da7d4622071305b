"""Where quantbench keeps what is expensive to make again; the rule stands in :mod:`quantize.paths`."""

from quantize.paths import cache_dir

__all__ = ["cache_dir"]
