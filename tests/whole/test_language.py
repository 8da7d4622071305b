"""docs/check_language.py finds the phrases of docs/banned-phrases.toml; ``make check`` runs it over the repository."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CHECK = ROOT / "docs" / "check_language.py"
PHRASES = tomllib.loads((ROOT / "docs" / "banned-phrases.toml").read_text(encoding="utf-8"))
# Written in parts, since the check reads this file too.
BANNED, INSTEAD = "cut" + " short", PHRASES["cut" + " short"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with the check and its list, and nothing else."""
    (tmp_path / "docs").mkdir()
    for name in ("check_language.py", "banned-phrases.toml"):
        (tmp_path / "docs" / name).write_bytes((ROOT / "docs" / name).read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def check(repository: Path, *files: str) -> subprocess.CompletedProcess[str]:
    subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    command = [sys.executable, "docs/check_language.py", *files]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


def test_every_phrase_is_an_expression_with_a_replacement() -> None:
    assert len(PHRASES) > 20
    for phrase, instead in PHRASES.items():
        assert phrase == phrase.lower()
        assert re.compile(phrase)
        assert isinstance(instead, str)
        assert instead, phrase
        assert not re.search(phrase, ""), f"{phrase} matches everything"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.md", f"First.\nA run that was {BANNED}.\n", 2),
        ("a.md", f"First.\nA run that was\n{BANNED.replace(' ', chr(10))}.\n", 3),
        ("a.md", f"{BANNED.title()}.\n", 1),
        ("a.py", f"# a run that was {BANNED.replace(' ', chr(10) + '# ')}\n", 1),
        ("a.yaml", f"#: a run that was {BANNED.replace(' ', chr(10) + '#: ')}\n", 1),
        ("a.py", f"def test_a_run_that_was_{BANNED.replace(' ', '_')}() -> None: ...\n", 1),
        ("a.py", f'SAID = "a run that was {BANNED.replace(" ", chr(34) + chr(10) + chr(34))}"\n', 1),
        ("Makefile", f"all:\n\techo {BANNED}\n", 2),
    ],
    ids=["line", "line-end", "capitals", "comment", "message-comment", "name", "strings", "makefile"],
)
def test_a_phrase_is_reported_with_file_line_and_replacement(repository: Path, name: str, text: str, line: int) -> None:
    (repository / name).write_text(text)
    done = check(repository)
    assert done.returncode == 1
    [report] = done.stderr.splitlines()
    assert report.startswith(f"{name}:{line}: ")
    assert report.endswith(f": write {INSTEAD}")


def test_clean_text_and_parts_of_words_pass(repository: Path) -> None:
    (repository / "a.md").write_text("An interrupted run resumes. Stable shortcuts, a mistold tale.\n")
    done = check(repository)
    assert (done.returncode, done.stderr) == (0, "")


def test_text_of_others_and_untracked_files_are_left_out(repository: Path) -> None:
    for name in ("results/published/a.md", "tests/fixtures/a.md", "constraints/a.txt", "ignored/a.md"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(BANNED)
    (repository / ".gitignore").write_text("ignored/\n")
    assert check(repository).returncode == 0


def test_a_named_file_is_checked_alone(repository: Path) -> None:
    (repository / "clean.md").write_text("Clean.\n")
    (repository / "other.md").write_text(BANNED)
    assert check(repository, "clean.md").returncode == 0
    assert check(repository, "other.md").returncode == 1
