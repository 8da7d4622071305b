"""The command ``quantbench``: one word for each thing it does, each a module of :mod:`bench.commands`."""

import importlib
import os
import sys

from bench import __version__
from bench.errors import nearest

COMMANDS = {
    "run": "quantize, serve, measure and report; try quantbench run --help",
    "results": "list, show, check, remove and export what a results folder holds",
    "compare": "say what changed from one run, session or variant to another",
    "decide": "say which variant to use under constraints, and why not the others",
    "export": "results as csv, json, parquet, or into MLflow",
    "published": "print speeds that others published, with the share of the limit",
    "toolchain": "list, build and check the environments of other quantization libraries",
    "gate": "say whether the newest session is worse than the nights before",
    "site": "pages over all runs, with the history of every variant",
    "mirror": "build and check a folder with the benchmarks' data, for machines without the hub",
}


MODULES = {"site": "website"}
"""Modules that are not called like their word: the standard library has a module ``site``."""


def usage() -> str:
    """Return what ``quantbench --help`` prints."""
    lines = [f"  {name:<11}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "quantbench: quantize a language model, serve it, measure it, say what it is worth.",
            "",
            "usage: quantbench COMMAND …",
            "",
            *lines,
            "",
            'Tab completion in bash: eval "$(quantbench -sc install=bash)"',
        ]
    )


def complete(arguments: list[str]) -> int:
    """Answer the shell's question for completions, which Hydra's script asks with ``-sc``; return the exit code."""
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
        sys.stderr.write(f"error: no command '{name}'{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}\n")
        return 2
    module = importlib.import_module(f"bench.{name}" if name == "run" else f"bench.commands.{MODULES.get(name, name)}")
    code: int = module.main(arguments[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
