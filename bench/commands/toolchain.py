"""``quantbench toolchain list | build NAME | check NAME``: environments for quantization libraries and engines."""

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
    "list": "list all toolchains with state, size and purpose",
    "build": "build the environment of NAME once; prints its sizes first",
    "check": "import and exercise NAME; print its versions as JSON",
}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    root = argparse.ArgumentParser(
        prog="quantbench toolchain",
        description="Pinned environments for libraries that conflict with quantbench's own. Each is built once, in\n"
        "~/.cache/quantbench/toolchains (or QUANTBENCH_CACHE), isolated from this environment.",
        epilog="\n".join(f"  {name:<7}{text}" for name, text in ACTIONS.items())
        + "\n\nExit codes: 0 success; 1 failure; 2 wrong usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("action", metavar="list|build|check")
    root.add_argument("name", metavar="NAME", nargs="?", help=f"one of {', '.join(toolchain.names())}")
    return root


def show() -> None:
    """Print the table of all toolchains."""
    rows = []
    for name in toolchain.names():
        chain = toolchain.read(name)
        state = toolchain.state(chain)
        built = toolchain.read_built(Path(state.python).parent.parent) if state.python else None
        size = built.disk_bytes if built else chain.disk_bytes
        rows.append((name, state.kind, fmt.space(size), chain.what_for))
    out = console()
    out.print(table("toolchains", ("name", "state", "size", "purpose"), rows))
    out.print(
        "Sizes of unbuilt toolchains assume torch's CPU build; those of sglang and vllm (CUDA) are estimates.",
        soft_wrap=True,
    )


def find_mistake(action: str, name: str | None) -> str | None:
    """Return the usage error as one line, or None."""
    known = toolchain.names()
    if action not in ACTIONS:
        return f"unknown action '{action}'{nearest(action, ACTIONS)} Known: {', '.join(ACTIONS)}"
    if action == "list":
        return None if name is None else f"list takes no name; try quantbench toolchain check {name}"
    if name is None:
        return f"{action} needs a name: quantbench toolchain {action} NAME, one of {', '.join(known)}"
    return None if name in known else f"unknown toolchain '{name}'{nearest(name, known)} Known: {', '.join(known)}"


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
