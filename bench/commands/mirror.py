"""``quantbench mirror build | check``: the benchmarks' data, for machines without access to the hub."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench import format as fmt
from bench.accuracy import data
from bench.accuracy.mirror import build as mirror_build
from bench.accuracy.mirror import check as mirror_check
from bench.accuracy.mirror.files import MANIFEST, Mirror, all_file_problems, read
from bench.accuracy.mirror.sources import check_names
from bench.commands.common import complain, ends_in_one_line
from bench.console import View
from bench.errors import AccuracyError, ConfigError, nearest
from bench.machine.direct import bypass_proxies

ACTIONS = {
    "build": "download the data of tasks into a folder; needs the hub",
    "check": "verify a mirror's checksums and compare its data with the known benchmarks; works offline",
}
DEFAULT_TASKS = "mmlu,ceval,ifeval"
OVERRIDE = "accuracy.verify_data=false ignores this"


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error as one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    rows = [
        f"  {name:<12} {known.items:>6} items   {known.repo:<18} {known.licence}"
        for name, known in data.benchmarks().items()
    ]
    root = _Parser(
        prog="quantbench mirror",
        description="A mirror is a folder with the benchmarks' data. Copy it to machines without access to the hub\n"
        "and name it there with QUANTBENCH_HUB or accuracy.hub_dir.",
        epilog="Known tasks, whose counts and content are verified:\n"
        + "\n".join(rows)
        + "\n\nExit codes: 0 success; 1 failure, or the data differs from the known benchmarks; 2 wrong usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = root.add_subparsers(dest="action", required=True, metavar="build|check")
    build_parser = actions.add_parser("build", help=ACTIONS["build"], description=ACTIONS["build"])
    build_parser.add_argument(
        "--tasks",
        metavar="A,B,…",
        default=DEFAULT_TASKS,
        help=f"tasks as in accuracy.tasks: any lm-eval task with data sets on the hub (default: {DEFAULT_TASKS})",
    )
    build_parser.add_argument(
        "--out",
        dest="folder",
        metavar="DIR",
        type=Path,
        required=True,
        help="a new or empty folder, or an existing mirror to extend",
    )
    check_parser = actions.add_parser("check", help=ACTIONS["check"], description=ACTIONS["check"])
    check_parser.add_argument("folder", metavar="DIR", type=Path, help="the mirror")
    return root


def build(tasks: Sequence[str], out: Path) -> list[str]:
    """Build a mirror and print the command to run next; return the problems of its data.

    Raises:
        ConfigError: unknown task.
        AccuracyError: the data is unavailable, or the folder cannot be used.
    """
    names = check_names(tasks)
    problems = mirror_build.build(names, out)
    if not problems:
        override = "" if set(names) == set(data.benchmarks()) else f" 'accuracy.tasks=[{','.join(names)}]'"
        sys.stdout.write(
            f"{out} is a mirror for {', '.join(names)}. Next, here or where you copy it to:\n"
            f"  QUANTBENCH_HUB={out} python -m bench.run +model=smollm2-135m quant=gptq-int4 workload=none "
            f"accuracy=full{override}\n"
        )
    return problems


def _tasks_of(hub_dir: Path, mirror: Mirror | None) -> tuple[str, ...]:
    """Return the tasks that a mirror was built for; without a manifest, those whose folder exists.

    Raises:
        AccuracyError: the folder is not a mirror.
    """
    known = data.benchmarks()
    with_folder = tuple(name for name, benchmark in known.items() if (hub_dir / benchmark.repo).is_dir())
    tasks = tuple(mirror.tasks) if mirror and mirror.tasks else with_folder
    if not tasks:
        folders = ", ".join(benchmark.repo for benchmark in known.values())
        raise AccuracyError(
            f"{hub_dir} is not a mirror: it has no complete {MANIFEST} and none of the folders {folders}"
        )
    return tasks


def check(hub_dir: Path) -> list[str]:
    """Check a mirror's files and the data that lm-eval reads from them; return the problems.

    Raises:
        ConfigError: the folder does not exist.
        AccuracyError: the folder is not a mirror, or cannot be read.
    """
    if not hub_dir.is_dir():
        raise ConfigError(f"{hub_dir} is not a folder")
    mirror = read(hub_dir)
    tasks = _tasks_of(hub_dir, mirror)
    with View(f"mirror {hub_dir}") as view:
        problems = []
        if mirror:
            with view.stage("files"):
                problems = all_file_problems(hub_dir, mirror)
        for task, measured in mirror_check.measure(hub_dir, tasks, view).items():
            task_problems = mirror_check.problems_of(measured)
            if not task_problems:
                known = measured.leaves.keys() <= data.known_leaves().keys()
                items = sum(leaf.items for leaf in measured.leaves.values())
                result = "verified" if known else "not verified: no known data to compare with"
                leaves = fmt.plural(len(measured.leaves), "leaf task")
                sys.stdout.write(f"{task}: {items} items in {leaves}, {result}\n")
            problems += task_problems
    return problems


@ends_in_one_line(interrupted="interrupted; rerun the same command to resume")
def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    bypass_proxies()
    if argv and not argv[0].startswith("-") and argv[0] not in ACTIONS:
        raise ConfigError(f"unknown action '{argv[0]}'{nearest(argv[0], ACTIONS)} Known: {', '.join(ACTIONS)}")
    arguments = parser().parse_args(argv)
    folder: Path = arguments.folder.expanduser().absolute()
    if arguments.action == "build":
        problems = build(tuple(filter(None, arguments.tasks.split(","))), folder)
        fix = ""
    else:
        problems = check(folder)
        fix = f"quantbench mirror build --out {folder} downloads its data again; "
    if problems:
        sys.stderr.write("".join(f"  {problem}\n" for problem in problems))
        mismatches = fmt.plural(len(problems), "mismatch", "mismatches")
        complain(f"{mismatches} with the known benchmark data; {fix}{OVERRIDE}")
    return 1 if problems else 0
