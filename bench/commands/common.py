"""What all commands share: the ``--results`` option and the exit codes.

Exit codes: 0 success; 1 something failed; 2 wrong usage; 130 interrupted; 141 the reader of a piped output has
exited. A command's ``--help`` describes its other codes.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from bench.errors import EXIT_INTERRUPTED, QuantbenchError
from quantize.locks import NoLocksError

P = ParamSpec("P")
EXIT_BROKEN_PIPE = 141
"""128 + 13: what shells return for a program ended by SIGPIPE."""


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--results`` to a command."""
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")


def complain(text: str) -> None:
    """Write an error as one line to standard error."""
    sys.stderr.write(f"error: {text}\n")


def ends_in_one_line(
    *, failed: int | None = None, interrupted: str = "interrupted"
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Return a decorator for a command's ``main`` that turns exceptions into one line and an exit code.

    Args:
        failed: exit code of every error; None for the error's own.
        interrupted: message printed after Ctrl-C.
    """

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                code = main(*args, **kwargs)
                sys.stdout.flush()
            except QuantbenchError as error:
                complain(str(error))
                return error.exit_code if failed is None else failed
            except NoLocksError as error:
                complain(str(error.strerror))
                return QuantbenchError.exit_code if failed is None else failed
            except KeyboardInterrupt:
                sys.stderr.write(f"{interrupted}\n")
                return EXIT_INTERRUPTED
            except BrokenPipeError:
                # Otherwise the interpreter raises again when it flushes the buffer at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return EXIT_BROKEN_PIPE
            return code

        return run

    return decorate
