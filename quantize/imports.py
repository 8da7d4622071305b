"""Keep transformers from importing scikit-learn, which takes seconds and is used only for draft models."""

import sys


def without_sklearn() -> None:
    """Keep transformers from importing scikit-learn, which lm-eval installs: it takes 1.5 of 10 s of CPU time.

    It is used only for generation with a draft model. transformers remembers that it is missing; later imports, such as
    by a checkpoint's own code, still find it. In Python's module cache, ``None`` is a module that cannot be imported:
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
