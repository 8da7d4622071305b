"""``python -m benchmarks``: run every benchmark, print its table and store it in ``benchmarks/last/``."""

import importlib
import platform
import re
import sys
from pathlib import Path

from bench.machine.environment import read_environment
from quantize.clock import utc_date

NAMES = ("client", "accuracy", "overhead", "quantize", "layer_damage", "size", "nights")
LAST = Path(__file__).resolve().parent / "last"
DOCS = LAST.parent.parent / "docs"


def into_docs(name: str, text: str) -> None:
    """Insert a benchmark's result into the docs, between ``<!-- bench NAME -->`` and ``<!-- end -->``."""
    for page in DOCS.glob("*.md"):
        before = page.read_text()
        pattern = re.compile(rf"(<!-- bench {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page.write_text(pattern.sub(lambda match: f"{match[1]}{text}{match[2]}", before))


def keep(name: str, table: str) -> None:
    """Print a benchmark's result and store it with date and machine in ``benchmarks/last/`` and the docs."""
    machine = read_environment()
    head = f"{utc_date()} · {machine.cpu} · {machine.cpu_cores} cores · Python {platform.python_version()}"
    body = f"{head}\n\n{table}\n"
    LAST.mkdir(exist_ok=True)
    (LAST / f"{name}.md").write_text(f"# {name}\n\n{body}")
    into_docs(name, body)
    print(f"# {name}\n\n{body}")


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks, or all, and return the exit code."""
    for name in chosen or NAMES:
        keep(name, importlib.import_module(f"benchmarks.{name}").run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
