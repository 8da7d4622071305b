"""What all commands share: the results folder as an argument, and how a command ends.

Exit codes: 0 it did what was asked; 1 something failed; 2 the command is wrong; 130 it was interrupted; 141 the program
that its output was piped into went away. What a command means by others, its ``--help`` says.
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
"""128 + 13, as shells give it for a program that SIGPIPE ended."""


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add ``--results`` to a command's arguments."""
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")


def complain(text: str) -> None:
    """Write one line about what is wrong."""
    sys.stderr.write(f"error: {text}\n")


def ends_in_one_line(
    *, failed: int | None = None, interrupted: str = "interrupted"
) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Return a decorator for a command's ``main`` that turns what ends it early into one line and an exit code.

    Args:
        failed: exit code of every error; None for the error's own.
        interrupted: what is said after Ctrl-C.
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
                # What is left in the buffer would raise once more when the interpreter ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return EXIT_BROKEN_PIPE
            return code

        return run

    return decorate
