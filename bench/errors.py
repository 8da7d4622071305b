"""The errors that users see, as one tree.

::

    QuantbenchError            exit code 1: something failed; results so far are kept
    ├── ConfigError            exit code 2: the command or config is wrong
    │   └── NotPossibleError   an impossible combination, with the reason
    ├── SourceError            the model's weights are unavailable
    ├── ToolchainError         a required package is missing
    ├── QuantizeError          the worker failed, or its output does not match the scheme
    ├── EngineError            the server did not start, died, hung, or gave invalid answers
    ├── AccuracyError          a task could not be loaded or scored
    └── StoreError             a record cannot be written or read

A message says what was wrong, where, and what to type next.
"""

import difflib
from collections.abc import Iterable

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + 2, as shells return it."""


class QuantbenchError(Exception):
    """Base of all errors that are printed as one line, without a traceback."""

    exit_code = 1


class ConfigError(QuantbenchError):
    """The command line or a config file is wrong."""

    exit_code = 2


class NotPossibleError(ConfigError):
    """An impossible combination, detected before the run."""


class SourceError(QuantbenchError):
    """A model's weights are unavailable on this machine."""


class ToolchainError(QuantbenchError):
    """Packages that a stage needs are missing or have the wrong version."""


class QuantizeError(QuantbenchError):
    """Quantization failed, or its output was rejected."""


class EngineError(QuantbenchError):
    """A server did not start, died, hung, or gave unusable answers."""


class AccuracyError(QuantbenchError):
    """A task could not be loaded, or its answers cannot be scored."""


class StoreError(QuantbenchError):
    """A record cannot be written or read."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: ``"; did you mean 'x'?"`` with the word nearest to ``word``, or a full stop."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else "."
