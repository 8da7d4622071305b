"""What a process that computes with a model does without."""

import sys


def without_sklearn() -> None:
    """Keep transformers from importing scikit-learn, which lm-eval installs: 1.5 of 10 seconds of processor time.

    It is for generation with a draft model only. ``None`` is Python's own mark of a module that cannot be imported:
    https://docs.python.org/3/reference/import.html#the-module-cache.
    """
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]
