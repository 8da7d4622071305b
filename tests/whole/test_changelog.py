"""CHANGELOG.md in the form of Keep a Changelog: versions, kinds, and entries that begin with their area."""

import re
from collections import Counter

from tests.support.paths import ROOT

TEXT = (ROOT / "CHANGELOG.md").read_text()
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed")
AREAS = {
    "Accuracy", "Cluster", "Commands", "Configs", "Data", "Docs", "Engines", "Gate", "Limits", "Models", "Plan",
    "Published", "Quantize", "Records", "Report", "Results", "Security", "Speed", "Tests", "Toolchains",
}  # fmt: skip


def test_a_version_has_each_kind_once_and_in_order() -> None:
    for version in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        before = version.partition("\n### ")[0]
        assert "\n- " not in before, "an entry above the first heading: put it under Added, Changed or Fixed"
        kinds = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds]


def test_an_entry_begins_with_its_area_and_is_there_once() -> None:
    entries = re.findall(r"^- (.+(?:\n  .+)*)", TEXT, re.MULTILINE)
    assert len(entries) > 50
    areas = [entry.partition(": ")[0] for entry in entries]
    assert {area for area in areas if area not in AREAS} == set()
    assert [entry for entry, count in Counter(entries).items() if count > 1] == []
