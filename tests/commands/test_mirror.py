"""``quantbench mirror``: errors and help."""

import pytest

from bench.accuracy import data
from bench.commands import mirror


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld"], "unknown action 'biuld'; did you mean 'build'? Known: build, check"),
        ([], "the following arguments are required: build|check; see quantbench mirror --help"),
        (["build"], "the following arguments are required: --out; see quantbench mirror build --help"),
        (["build", "--out", "x", "--tasks", "mmul"], "--tasks: lm-eval has no task 'mmul'; did you mean 'mmlu'?"),
        (["build", "--out", "x", "--tasks", "mini-mmlu"], "--tasks: mini-mmlu comes with quantbench"),
        (["build", "--out", "x", "--tasks", ","], "--tasks names no task; try --tasks mmlu,ceval,ifeval"),
        (["check", "/no/such"], "/no/such is not a folder"),
    ],
)
def test_wrong_arguments_of_mirror_are_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval")
    assert mirror.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_the_help_names_the_known_tasks_and_both_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        mirror.main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text and known.licence in text for name, known in data.benchmarks().items())
    assert all(action in text for action in mirror.ACTIONS)
