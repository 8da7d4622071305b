"""``quantbench gate``: compare the newest session with the nights before it; CI reads the exit code."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench.commands.common import add_results, ends_in_one_line
from bench.errors import ConfigError
from bench.files import append, write_atomic
from bench.history.find import check_results
from bench.history.index import Index, marks_of
from bench.nightly.change_points import change_points
from bench.nightly.course import JudgedNight
from bench.nightly.gate import Tonight, accept, judged, measure_again
from bench.nightly.nights import histories
from bench.nightly.output import EXIT, Line, exit_code, junit, lines_of, markdown
from quantize.clock import utc_mark

INVALID = 3
"""Exit code of an invalid run and of every error."""
HISTORY = "gate.jsonl"
"""File in the results folder to which every judgement is appended."""


def _histories(results_dir: Path, tonight: Tonight) -> dict[str, tuple[JudgedNight, ...]]:
    index = Index(results_dir)
    try:
        return histories(index, tonight.runs, marks_of(results_dir))
    finally:
        index.close()


class _Parser(argparse.ArgumentParser):
    """Exits with `INVALID` on usage errors; argparse's 2 means "not enough data" here."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with `INVALID`."""
        self.print_usage(sys.stderr)
        self.exit(INVALID, f"{self.prog}: error: {message}\n")


@ends_in_one_line(failed=INVALID)
def main(argv: Sequence[str] | None = None) -> int:
    """Judge the session, print and write the result, and return the exit code."""
    parser = _Parser(
        prog="quantbench gate",
        description="Compare the newest session with the nights before it.",
        epilog="exit codes: " + "; ".join(f"{code} {text}" for code, text in EXIT.items()),
    )
    add_results(parser)
    parser.add_argument("--session", help="the session to judge (default: the newest)")
    parser.add_argument(
        "--rerun", action="store_true", help="re-measure series that alarmed and judge both measurements together"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument(
        "--summary", type=Path, metavar="FILE", help="append a Markdown summary, e.g. for a CI job page"
    )
    parser.add_argument(
        "--change-points", action="store_true", help="also list change points of each series (needs toolchain otava)"
    )
    parser.add_argument("--accept", metavar="RUN", help="start a new epoch with this run instead of judging")
    parser.add_argument("--reason", default="", help="reason for --accept")
    return _main(parser.parse_args(argv))


def _main(arguments: argparse.Namespace) -> int:
    results: Path = arguments.results
    check_results(results)
    if arguments.accept:
        if not arguments.reason or not (results / "runs" / arguments.accept / "record.json").exists():
            raise ConfigError("--accept RUN needs the name of a finished run, and --reason 'why'")
        accept(results, arguments.accept, arguments.reason)
        sys.stdout.write(f"a new epoch starts with {arguments.accept}\n")
        return 0
    newest = arguments.session is None
    tonight, lines = judged(results, arguments.session, newest=newest)
    if arguments.rerun and measure_again(results, tonight, lines):
        # The first session is still the one judged. If the second measurement falls into the next night, the alarm of
        # the first is kept.
        tonight, lines = judged(results, tonight.session, newest=newest, again=True)
    code = exit_code(lines)
    sys.stdout.write(lines_of(lines))
    if arguments.change_points:
        for point in change_points(_histories(results, tonight)):
            sys.stdout.write(
                f"change point: {point.series}, night of {point.night}: {point.change:+.1%} (p {point.p:.2g})\n"
            )
    if arguments.junit:
        write_atomic(arguments.junit, junit(tonight.session, lines))
    for file, text in (
        (arguments.summary, markdown(tonight.session, lines)),
        (results / HISTORY, _entry(tonight, lines)),
    ):
        if file is not None:
            append(file, text)
    return code


def _entry(tonight: Tonight, lines: Sequence[Line]) -> str:
    entry = {
        "at": utc_mark(),
        "session": tonight.session,
        "exit_code": exit_code(lines),
        "lines": [line.model_dump() for line in lines],
    }
    return json.dumps(entry) + "\n"
