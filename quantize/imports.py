"""Keep transformers from importing scikit-learn, which takes seconds and serves only draft models."""

import sys


def without_sklearn() -> None:
    """Keep transformers from importing scikit-learn, which lm-eval installs: 1.5 of 10 seconds of processor time.

    It is for generation with a draft model only. transformers remembers that it is not there; who asks later, such as a
    checkpoint's own code, finds it. ``None`` is Python's own mark of a module that cannot be imported:
    https://docs.python.org/3/reference/import.html#the-module-cache.
    """
    if "sklearn" in sys.modules:
        return
    sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        from transformers.utils import is_sklearn_available

        is_sklearn_available()
    finally:
        del sys.modules["sklearn"]
