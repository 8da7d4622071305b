"""``quantbench site build``: a static site over all runs, for any web server.

``index.html`` lists the sessions, the gate's result for the newest one, and every variant. Each variant has a page with
its history; the newest sessions have their reports. A page is written again only if its contents have changed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import format as fmt
from bench.commands.common import add_results, ends_in_one_line
from bench.messages.message import LANGUAGES
from bench.report.website import build


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Build the site and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="quantbench site", description="Build a static site over all runs, with the history of every variant."
    )
    parser.add_argument("action", choices=("build",), help="the only action")
    add_results(parser)
    parser.add_argument("--out", type=Path, default=Path("site"), help="output folder (default: site)")
    parser.add_argument(
        "--reports",
        type=int,
        default=10,
        metavar="N",
        help="number of newest sessions with a report (default: %(default)s)",
    )
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="language of the pages (default: en)")
    arguments = parser.parse_args(argv)
    written, unchanged = build(arguments.results, arguments.out, reports=max(arguments.reports, 0), lang=arguments.lang)
    sys.stdout.write(f"{fmt.plural(written, 'page')} written, {unchanged} unchanged: {arguments.out / 'index.html'}\n")
    return 0
