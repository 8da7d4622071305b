"""Every decision has the same head: number and title, then date, status and a link to the code."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "docs" / "decisions"
FILES = sorted(FOLDER.glob("*.md"))
HEAD = re.compile(
    r"# (?P<number>\d{4}): (?P<title>[A-Z].+)\n\n"
    r"(?P<date>20\d\d-[01]\d-[0-3]\d) · (?P<status>accepted|superseded by \[\d{4}\]\(\S+\)) · (?P<code>\[.+?)\n\n",
    re.DOTALL,
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_decision_has_number_date_status_and_code(file: Path) -> None:
    text = file.read_text()
    head = HEAD.match(text)
    assert head, "begin with '# NNNN: Title', an empty line, and 'DATE · accepted · [PATH](../../PATH)'"
    assert file.stem.startswith(f"{head['number']}-")
    assert "](../../" in head["code"]
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (FOLDER / link).exists(), link


def test_no_two_decisions_share_a_number() -> None:
    numbers = Counter(file.stem.partition("-")[0] for file in FILES)
    assert [number for number, count in numbers.items() if count > 1] == []
