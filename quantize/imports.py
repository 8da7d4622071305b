"""Import transformers in 2.2 instead of 4.7 s of CPU time (measured, one core of an AMD EPYC, libraries as pinned)."""

import gc
import sys

UNUSED = ("sklearn", "scipy")
"""Packages that it imports only because lm-eval installs them: for draft models, and for losses of object detectors."""


def _hide_unused() -> None:
    """Let transformers remember that unused packages are missing; later imports, such as by own code, find them."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    # In Python's module cache, None is a module that cannot be imported:
    # https://docs.python.org/3/reference/import.html#the-module-cache.
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]
    try:
        from transformers.utils import is_scipy_available, is_sklearn_available

        is_scipy_available()
        is_sklearn_available()
    finally:
        for name in hidden:
            del sys.modules[name]


def import_transformers() -> None:
    """Import transformers' models without unused packages and without the garbage collector.

    The collector would search half a million objects again and again while they are created, although nearly all stay.
    From then on it skips them, so that it does not interrupt a server either.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        _hide_unused()
        from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_utils  # noqa: F401
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
