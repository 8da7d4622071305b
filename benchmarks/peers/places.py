"""Each peer's interpreter: in ``$QUANTBENCH_PEERS/NAME``, or else in the cache, where it is built on first use."""

import os
import subprocess
import sys
from pathlib import Path

from bench.paths import cache_dir
from bench.toolchains.toolchain import toolchain_interpreter

HERE = Path(__file__).resolve().parent


def _built(name: str) -> str:
    """Return the interpreter in the cache, building its environment from ``NAME.txt`` if necessary."""
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
    """Return the interpreter of the peer ``name``; the current one for an empty name.

    Raises:
        ToolchainError: SGLang's toolchain is not built.
    """
    if not name:
        return sys.executable
    folder = os.environ.get("QUANTBENCH_PEERS")
    if folder and (Path(folder) / name / "bin" / "python").exists():
        return str(Path(folder) / name / "bin" / "python")
    if name == "sglang":
        return toolchain_interpreter("sglang-cpu", "the comparison of clients")
    return _built(name)


def version(python: str, package: str) -> str:
    """Return the version of ``package`` in an environment, or ``not installed``."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return result.stdout.strip() or "not installed"
