"""Turn an error of building a checkpoint into a one-line message."""

import errno
import traceback
from pathlib import Path

from quantize.checkpoint import CheckpointError


class SourceUnavailableError(Exception):
    """The weights are unavailable on this machine; says why and what to do."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "DefaultCPUAllocator")


def explain_failure(error: Exception) -> str:
    """Return one line for any error that ended a build: what failed and, if it is known, what to do.

    Errors of an unknown kind are logged with their traceback.
    """
    text = str(error).strip()
    if isinstance(error, CheckpointError | SourceUnavailableError):
        return text
    traceback.print_exception(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return (
            "out of memory: use a machine with more memory, a data-free method such as fp8 or rtn-int4, or less "
            "calibration text"
        )
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in text:
        return (
            "the disk is full: free some space, or choose another folder with QUANTBENCH_CACHE; nothing was published"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror or error}: {Path(str(error.filename))}"
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
