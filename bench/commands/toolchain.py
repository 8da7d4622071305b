"""``quantbench toolchain list | build NAME | check NAME``: the environments of the libraries that quantize."""

import argparse
import sys
from pathlib import Path

from bench import format as fmt
from bench.commands.common import ends_in_one_line
from bench.console import console, table
from bench.errors import ConfigError, nearest
from bench.toolchains import build as toolchain_build
from bench.toolchains import toolchain

ACTIONS = {
    "list": "show every toolchain: whether it is built, how large it is, what it is for",
    "build": "build NAME's environment, once; tells sizes first",
    "check": "import and exercise NAME; prints versions as JSON",
}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="quantbench toolchain",
        description="Pinned environments for libraries that cannot live beside quantbench's own. They are built once,\n"
        "lie in ~/.cache/quantbench/toolchains (or QUANTBENCH_CACHE), and see nothing of this environment.",
        epilog="\n".join(f"  {name:<7}{text}" for name, text in ACTIONS.items())
        + "\n\nExit codes: 0 done; 1 it failed; 2 the command is wrong.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("action", metavar="list|build|check")
    found.add_argument("name", metavar="NAME", nargs="?", help=f"one of {', '.join(toolchain.names())}")
    return found


def show() -> None:
    """Print the table of all toolchains."""
    rows = []
    for name in toolchain.names():
        chain = toolchain.read(name)
        found = toolchain.state(chain)
        built = toolchain.read_built(Path(found.python).parent.parent) if found.python else None
        size = built.disk_bytes if built else chain.disk_bytes
        rows.append((name, found.kind, fmt.space(size), chain.what_for))
    out = console()
    out.print(table("toolchains", ("name", "state", "size", "what for"), rows))
    out.print(
        "Sizes of what is not built are those with torch's CPU build; of sglang and vllm, which need CUDA, estimates.",
        soft_wrap=True,
    )


def find_mistake(action: str, name: str | None) -> str | None:
    """Return what is wrong with the command, in one line; None if nothing is."""
    known = toolchain.names()
    if action not in ACTIONS:
        return f"no action '{action}'{nearest(action, ACTIONS)} Known: {', '.join(ACTIONS)}"
    if action == "list":
        return None if name is None else f"list takes no name; try quantbench toolchain check {name}"
    if name is None:
        return f"{action} what? Type quantbench toolchain {action} NAME, one of {', '.join(known)}"
    return None if name in known else f"no toolchain '{name}'{nearest(name, known)} Known: {', '.join(known)}"


@ends_in_one_line()
def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    mistake = find_mistake(arguments.action, arguments.name)
    if mistake:
        raise ConfigError(mistake)
    if arguments.action == "list":
        show()
        return 0
    act = toolchain_build.build if arguments.action == "build" else toolchain_build.check
    sys.stdout.write(act(arguments.name) + "\n")
    return 0
