"""Where each peer's interpreter lies: in ``$QUANTBENCH_PEERS/NAME``, else in the cache, built there on first use."""

import os
import subprocess
import sys
from pathlib import Path

from bench.paths import cache_dir
from bench.toolchains.toolchain import toolchain_interpreter

HERE = Path(__file__).resolve().parent


def _built(name: str) -> str:
    """Return the interpreter in the cache, after building its environment from ``NAME.txt`` if there is none."""
    place = cache_dir() / "peers" / name
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"building {place} from {HERE / name}.txt", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--requirement", HERE / f"{name}.txt"], check=True)
        (place / "complete").touch()
    return str(python)


def interpreter(name: str) -> str:
    """Return the interpreter of the peer ``name``; ours for an empty name.

    Raises:
        ToolchainError: SGLang is compared from its toolchain, which is not built.
    """
    if not name:
        return sys.executable
    given = os.environ.get("QUANTBENCH_PEERS")
    if given and (Path(given) / name / "bin" / "python").exists():
        return str(Path(given) / name / "bin" / "python")
    if name == "sglang":
        return toolchain_interpreter("sglang-cpu", "the comparison of clients")
    return _built(name)


def version(python: str, package: str) -> str:
    """Return the version of ``package`` in an environment; a word of why not where it is not there."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return found.stdout.strip() or "not installed"
