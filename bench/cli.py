"""The command ``quantbench``; each subcommand is a module of :mod:`bench.commands`."""

import importlib
import os
import sys

from bench import __version__
from bench.errors import nearest

COMMANDS = {
    "run": "quantize, serve, measure and report (see quantbench run --help)",
    "results": "list, show, verify, prune and export the runs of a results folder",
    "compare": "compare two runs, sessions or variants",
    "decide": "recommend a variant under constraints, with reasons",
    "export": "export results as csv, json, parquet or to MLflow",
    "published": "print published speeds as a share of the device's limit",
    "toolchain": "list, build and check environments for quantization libraries and engines",
    "gate": "compare the newest session with the nights before it",
    "site": "build a static site over all runs, with the history of every variant",
    "mirror": "build and check a mirror of the benchmarks' data, for offline machines",
}


MODULES = {"site": "website"}
"""Modules whose name differs from their command: ``site`` is a module of the standard library."""


def usage() -> str:
    """Return the text of ``quantbench --help``."""
    lines = [f"  {name:<11}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "quantbench: quantize language models, serve them, and measure their speed and accuracy.",
            "",
            "usage: quantbench COMMAND …",
            "",
            *lines,
            "",
            'Tab completion in bash: eval "$(quantbench -sc install=bash)"',
        ]
    )


def complete(arguments: list[str]) -> int:
    """Print completions for the shell; Hydra's completion script calls this with ``-sc``. Return the exit code."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if "query=bash" in arguments and (len(words) < 2 or (len(words) == 2 and not line.endswith(" "))):
        sys.stdout.write(" ".join(COMMANDS) + "\n")
        return 0
    if "query=bash" in arguments and words[1] != "run":
        return 0
    os.environ["COMP_LINE"] = line.replace(" run", "", 1)
    from bench.run import main as run

    return run(arguments)


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"quantbench {__version__}\n")
        return 0
    if arguments[0] == "-sc":
        return complete(arguments)
    name = arguments[0]
    if name not in COMMANDS:
        sys.stderr.write(f"error: unknown command '{name}'{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}\n")
        return 2
    module = importlib.import_module(f"bench.{name}" if name == "run" else f"bench.commands.{MODULES.get(name, name)}")
    code: int = module.main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
