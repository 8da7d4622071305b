"""``python docs/check_language.py [FILE…]``: reports phrases of banned-phrases.toml in the repository's English.

``make check`` runs it on every text file that git tracks: code with its names, configs, docs, the English catalogue.
External text (published figures, recorded answers) and generated files are excluded.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PHRASES = DOCS / "banned-phrases.toml"
ENGLISH = (".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".po", ".txt", "Makefile")
EXCLUDED = re.compile(
    r"results/published/|tests/fixtures/|locale/(?!en/)|constraints/[^/]*\.txt$|docs/banned-phrases\.toml$"
)
GAP = r"(?:[\s_-]|#:?|\"\s*\n\s*f?\")+"
"""What may separate the words of a phrase: white space with a comment sign on the next line, the end of a string that
the next line continues, a hyphen, or a name's underscore."""


def patterns() -> dict[re.Pattern[str], str]:
    """Return the list as {expression: what to write instead}."""
    phrases = tomllib.loads(PHRASES.read_text(encoding="utf-8"))
    return {
        re.compile(rf"(?<![a-z])(?:{phrase.replace(' ', GAP)})(?![a-z])", re.IGNORECASE): instead
        for phrase, instead in phrases.items()
    }


def faults(text: str, where: str, banned: dict[re.Pattern[str], str]) -> Iterator[str]:
    """Yield a line for each banned phrase of a text: file, line, phrase, replacement."""
    for pattern, instead in banned.items():
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f'{where}:{line}: "{" ".join(match[0].split())}": write {instead}'


def files(root: Path = ROOT) -> list[Path]:
    """Return the tracked files with English of this project."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in names.split("\0") if name.endswith(ENGLISH) and not EXCLUDED.search(name)]


def main(paths: list[str]) -> int:
    """Check the given files, or every tracked one, and return the exit code."""
    banned, lines = patterns(), list[str]()
    for path in [Path(path) for path in paths] or files():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            lines.append(f"{path}: {error}")
            continue
        lines += faults(text, os.path.relpath(path, ROOT), banned)
    sys.stderr.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
