"""Every error that a person may see, as one tree.

::

    QuantbenchError            exit code 1: something failed; what was measured is kept
    ├── ConfigError            exit code 2: the command or config is wrong
    │   └── NotPossibleError   the parts exist but cannot be combined; says why
    ├── SourceError            the model's weights cannot be had
    ├── ToolchainError         a package that a stage needs is not installed
    ├── QuantizeError          the worker failed or its output is not what the scheme says
    ├── EngineError            the server did not start, died, hung, or answered nonsense
    ├── AccuracyError          a task could not be loaded or scored
    └── StoreError             a record cannot be written or read

A message names what was wrong, where, and what to type next.
"""

import difflib
from collections.abc import Iterable

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + 2, as shells give it."""


class QuantbenchError(Exception):
    """Base of all errors that are told in one line, without a traceback."""

    exit_code = 1


class ConfigError(QuantbenchError):
    """The command line or a config file is wrong."""

    exit_code = 2


class NotPossibleError(ConfigError):
    """A combination that can never work, known before any time is spent."""


class SourceError(QuantbenchError):
    """A model's weights cannot be had on this machine."""


class ToolchainError(QuantbenchError):
    """Packages that a stage needs are missing or of another version."""


class QuantizeError(QuantbenchError):
    """Quantization failed, or its output was refused."""


class EngineError(QuantbenchError):
    """A server did not start, died, hung, or answered with something that cannot be used."""


class AccuracyError(QuantbenchError):
    """A task could not be loaded, or its answers cannot be scored."""


class StoreError(QuantbenchError):
    """A record cannot be written or read."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: ``"; did you mean 'x'?"`` for the word nearest to ``word``, or a full stop."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else "."
