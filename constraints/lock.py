"""``make lock``: resolves pyproject.toml into uv.lock, and writes constraints/pinned.txt from it.

A version that is pinned already stays, unless pyproject.toml excludes it. ``make lock LOCK=--upgrade`` takes the newest
versions; ``make lock LOCK='--upgrade-package NAME'`` takes the newest of one package.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
PINNED = ROOT / "constraints" / "pinned.txt"
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "bench/__init__.py")
"""What uv reads to resolve the project."""
EXTRAS = ("--extra", "demo", "--extra", "dev")
HEAD = """\
# Written by make lock, from uv.lock: one version of each package, for Python 3.11 and newer on any system. Do not edit.
# An index that offers the CPU build of torch's version makes the environment small; PyPI has the CUDA build on Linux.
"""


def uv(*words: str, folder: Path) -> str:
    """Run uv in a folder, with its messages on stderr, and return what it prints on stdout."""
    return subprocess.run(["uv", *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def pins(text: str) -> list[str]:
    """Return the requirements of a constraints file, without comments and empty lines."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def resolve(folder: Path, options: list[str]) -> list[str]:
    """Return a pin for each package, preferring those of the folder's pinned.txt, which ``uv lock`` cannot read."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    plain = ("--universal", "--python-version", oldest, "--no-annotate", "--no-header", "--quiet")
    uv("pip", "compile", "pyproject.toml", *EXTRAS, *plain, "--output-file", "pinned.txt", *options, folder=folder)
    return pins((folder / "pinned.txt").read_text(encoding="utf-8"))


def lock(folder: Path, versions: list[str]) -> None:
    """Write the folder's uv.lock with these versions. The second run drops the constraints and keeps the versions."""
    project = folder / "pyproject.toml"
    original = project.read_text(encoding="utf-8")
    table = f"[tool.uv]\nconstraint-dependencies = {json.dumps(versions)}\n"
    project.write_text(f"{original}\n{table}", encoding="utf-8")
    uv("lock", "--quiet", folder=folder)
    project.write_text(original, encoding="utf-8")
    uv("lock", "--quiet", folder=folder)


def main(options: list[str]) -> int:
    """Lock in a copy of what uv needs, so that a failure leaves both files as they were."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for needed in NEEDED:
            (folder / needed).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / needed, folder / needed)
        shutil.copy(PINNED, folder / "pinned.txt")
        try:
            lock(folder, resolve(folder, options))
            plain = ("--no-hashes", "--no-emit-project", "--no-annotate", "--no-header", "--quiet")
            exported = uv("export", "--locked", *EXTRAS, *plain, folder=folder)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"error: uv ended with exit code {error.returncode}; nothing was changed\n")
            return 1
        shutil.copy(folder / "uv.lock", ROOT / "uv.lock")
    PINNED.write_text(HEAD + "".join(f"{pin}\n" for pin in pins(exported)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
