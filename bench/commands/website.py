"""``quantbench site build``: a folder of pages over everything that was measured, to be put on any web server.

``index.html`` lists sessions, what the gate says of the newest one, and every variant; each variant has a page with its
nights; the newest sessions have their reports. A page is made anew only where what it shows has changed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.commands.common import add_results, ends_in_one_line
from bench.messages.message import LANGUAGES
from bench.report.website import build


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Build the site and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="quantbench site", description="Make a folder of pages over all runs, with the history of every variant."
    )
    parser.add_argument("action", choices=("build",), help="the only thing there is to do")
    add_results(parser)
    parser.add_argument("--out", type=Path, default=Path("site"), help="folder of the pages (default: site)")
    parser.add_argument(
        "--reports",
        type=int,
        default=10,
        metavar="N",
        help="reports of the newest N sessions (default: %(default)s)",
    )
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="language of the pages (default: en)")
    arguments = parser.parse_args(argv)
    made, kept = build(arguments.results, arguments.out, reports=max(arguments.reports, 0), lang=arguments.lang)
    sys.stdout.write(f"{made} pages made, {kept} still right: {arguments.out / 'index.html'}\n")
    return 0
