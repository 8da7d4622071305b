"""Exit codes and error messages of every command."""

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
"""Commands with ``--results``, and the other arguments that they need."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for record in native_records():
        keep(tmp_path, record)
    return tmp_path


def call(word: str, *arguments: str) -> int:
    code: int = importlib.import_module(f"bench.commands.{MODULES.get(word, word)}").main(list(arguments))
    return code


@pytest.mark.parametrize("word", WORDS)
def test_help_lists_the_results_option_of_commands_that_read_results(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        call(word, "--help")
    assert ended.value.code == 0
    help_text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ("--results RESULTS results folder (default: results)" in help_text) == (word in READS_RESULTS)


@pytest.mark.parametrize("word", READS_RESULTS)
def test_a_missing_results_folder_is_reported_in_one_line(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = ["--results", str(tmp_path / "none")]
    arguments = [*option, *READS_RESULTS[word]] if word == "results" else [*READS_RESULTS[word], *option]
    assert call(word, *arguments) == (3 if word == "gate" else 2)
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path / 'none' / 'runs'} does not exist; set the results folder with --results DIR\n"


def test_an_interrupt_is_reported_in_one_line(
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
def test_a_closed_pipe_ends_a_command_without_an_error(results: Path, words: list[str]) -> None:
    if words[0] == "results":
        words = ["results", "--results", str(results), *words[1:]]
    elif words[0] in READS_RESULTS:
        words = [*words, "--results", str(results)]
    argv = [sys.executable, "-m", "bench.cli", *words]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        errors = command.stderr.read()
    assert (command.returncode, errors) == (EXIT_BROKEN_PIPE, "")
