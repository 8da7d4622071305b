"""How every command ends: in one line and with the documented exit code."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import COMMANDS, MODULES
from bench.commands import export
from bench.commands.common import EXIT_BROKEN_PIPE
from bench.errors import EXIT_INTERRUPTED
from testkit.records import keep, native_records
from tests.support.paths import ROOT

WORDS = [word for word in COMMANDS if word != "run"]
READS_RESULTS = {"results": ["list"], "compare": ["a", "b"], "decide": [], "export": [], "gate": [], "site": ["build"]}
"""Commands that take ``--results``, with the other arguments that they need."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for one in native_records():
        keep(tmp_path, one)
    return tmp_path


def call(word: str, *arguments: str) -> int:
    code: int = importlib.import_module(f"bench.commands.{MODULES.get(word, word)}").main(list(arguments))
    return code


@pytest.mark.parametrize("word", WORDS)
def test_help_names_the_results_folder_where_the_command_reads_one(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        call(word, "--help")
    assert left.value.code == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ("--results RESULTS results folder (default: results)" in said) == (word in READS_RESULTS)


@pytest.mark.parametrize("word", READS_RESULTS)
def test_a_missing_results_folder_is_one_line(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = ["--results", str(tmp_path / "none")]
    arguments = [*before, *READS_RESULTS[word]] if word == "results" else [*READS_RESULTS[word], *before]
    assert call(word, *arguments) == (3 if word == "gate" else 2)
    said = capsys.readouterr().err
    assert said == f"error: {tmp_path / 'none' / 'runs'} is not there; name the results folder with --results DIR\n"


def test_an_interrupted_command_says_so_in_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write", interrupt)
    assert call("export", "--results", str(results)) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "words", [["results", "list"], ["export"], ["compare", "bf16", "fp8"], ["decide"], ["published", "qwen3-8b"]]
)
def test_a_command_whose_reader_went_away_ends_quietly(results: Path, words: list[str]) -> None:
    if words[0] == "results":
        words = ["results", "--results", str(results), *words[1:]]
    elif words[0] in READS_RESULTS:
        words = [*words, "--results", str(results)]
    argv = [sys.executable, "-m", "bench.cli", *words]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        said = command.stderr.read()
    assert (command.returncode, said) == (EXIT_BROKEN_PIPE, "")
