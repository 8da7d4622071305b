"""``quantbench mirror build | check``: the benchmarks' data for machines that cannot reach the hub."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

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
    "build": "fetch the data of tasks into a folder; on a machine that reaches the hub",
    "check": "hold a mirror against what is known of its files and its data; needs no hub",
}
DEFAULT_TASKS = "mmlu,ceval,ifeval"
ALL_THE_SAME = "accuracy.verify_data=false measures on it all the same"


class _Parser(argparse.ArgumentParser):
    """A parser that tells what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    rows = [
        f"  {name:<12} {known.items:>6} items   {known.repo:<18} {known.licence}"
        for name, known in data.benchmarks().items()
    ]
    found = _Parser(
        prog="quantbench mirror",
        description="A mirror is a folder with the benchmarks' data, to be copied to machines that cannot reach the\n"
        "hub and named there by QUANTBENCH_HUB or accuracy.hub_dir.",
        epilog="Known tasks, whose counts and content are verified:\n"
        + "\n".join(rows)
        + "\n\nExit codes: 0 done; 1 it failed, or the data is not what is known of it; 2 the command is wrong.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = found.add_subparsers(dest="action", required=True, metavar="build|check")
    building = actions.add_parser("build", help=ACTIONS["build"], description=ACTIONS["build"])
    building.add_argument(
        "--tasks",
        metavar="A,B,…",
        default=DEFAULT_TASKS,
        help=f"tasks as in accuracy.tasks; any of lm-eval's that reads data sets on the hub (default: {DEFAULT_TASKS})",
    )
    building.add_argument(
        "--out",
        dest="folder",
        metavar="DIR",
        type=Path,
        required=True,
        help="a new or empty folder, or a mirror to add to",
    )
    checking = actions.add_parser("check", help=ACTIONS["check"], description=ACTIONS["check"])
    checking.add_argument("folder", metavar="DIR", type=Path, help="the mirror")
    return found


def build(tasks: Sequence[str], out: Path) -> list[str]:
    """Build a mirror and say what to type next; return what is wrong with its data.

    Raises:
        ConfigError: no such task.
        AccuracyError: the data cannot be had, or the folder cannot be used.
    """
    names = check_names(tasks)
    problems = mirror_build.build(names, out)
    if not problems:
        chosen = "" if set(names) == set(data.benchmarks()) else f" 'accuracy.tasks=[{','.join(names)}]'"
        sys.stdout.write(
            f"{out} is a mirror for {', '.join(names)}. Next, here or where you copy it to:\n"
            f"  QUANTBENCH_HUB={out} python -m bench.run +model=smollm2-135m quant=gptq-int4 workload=none "
            f"accuracy=full{chosen}\n"
        )
    return problems


def _tasks_of(hub_dir: Path, mirror: Mirror | None) -> tuple[str, ...]:
    """Return the tasks that a mirror was built for; of one made by hand, those whose folder is there.

    Raises:
        AccuracyError: it is no mirror.
    """
    known = data.benchmarks()
    there = tuple(name for name, benchmark in known.items() if (hub_dir / benchmark.repo).is_dir())
    found = tuple(mirror.tasks) if mirror and mirror.tasks else there
    if not found:
        folders = ", ".join(benchmark.repo for benchmark in known.values())
        raise AccuracyError(f"{hub_dir} is no mirror: it holds no finished {MANIFEST}, and none of {folders}")
    return found


def check(hub_dir: Path) -> list[str]:
    """Check a mirror: its files, and what lm-eval reads from them; return what is wrong.

    Raises:
        ConfigError: there is no such folder.
        AccuracyError: it is no mirror, or cannot be read.
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
        for task, found in mirror_check.measure(hub_dir, tasks, view).items():
            wrong = mirror_check.problems_of(found)
            if not wrong:
                known = found.leaves.keys() <= data.known_leaves().keys()
                items = sum(leaf.items for leaf in found.leaves.values())
                compared = "as known" if known else "and nothing known to hold them against"
                sys.stdout.write(f"{task}: {items} items of {len(found.leaves)} leaf tasks, {compared}\n")
            problems += wrong
    return problems


@ends_in_one_line(interrupted="stopped: the same command goes on where it was")
def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    bypass_proxies()
    if argv and not argv[0].startswith("-") and argv[0] not in ACTIONS:
        raise ConfigError(f"no action '{argv[0]}'{nearest(argv[0], ACTIONS)} Known: {', '.join(ACTIONS)}")
    arguments = parser().parse_args(argv)
    folder: Path = arguments.folder.expanduser().absolute()
    if arguments.action == "build":
        problems = build(tuple(filter(None, arguments.tasks.split(","))), folder)
        cure = ""
    else:
        problems = check(folder)
        cure = f"quantbench mirror build --out {folder} fetches what it built anew; "
    if problems:
        sys.stderr.write("".join(f"  {problem}\n" for problem in problems))
        complain(f"not what is known of it, in {len(problems)} points; {cure}{ALL_THE_SAME}")
    return 1 if problems else 0
