"""The table of benchmarks, and loaded tasks compared with it."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy import data, tasks
from bench.commands import mirror
from tests.support.mirror_site import SUBJECTS, Site, items


def test_what_is_known_of_the_benchmarks() -> None:
    table = data.benchmarks()
    assert {name: known.repo for name, known in table.items()} == tasks.HUB_DATA
    assert {name: (known.items, len(known.leaves)) for name, known in table.items()} == {
        "mmlu": (14042, 57),
        "ceval-valid": (1346, 52),
        "ifeval": (541, 1),
    }
    for known in table.values():
        assert len(known.revision) == 40
        for leaf in known.leaves.values():
            assert leaf.sha256
            assert (leaf.examples, leaf.examples_sha256 is None) in ((5, False), (0, True))
    assert set(mirror.DEFAULT_TASKS.split(",")) - data.ALIASES.keys() < table.keys()


@dataclass
class LoadedTask:
    """The fields of lm-eval's task objects that are read."""

    eval_docs: list[dict[str, Any]]
    shots: list[dict[str, Any]]

    def fewshot_docs(self) -> list[dict[str, Any]]:
        return self.shots


def test_loaded_tasks_are_compared_with_the_known_data(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FILE", site.knowledge)
    loaded = {subject: LoadedTask(items(subject, "test"), items(subject, "dev")) for subject in SUBJECTS}
    assert data.verify_docs("tiny", loaded) == ()
    loaded["apples"].eval_docs.pop()
    loaded["pears"].shots[0]["question"] += " "
    del loaded["plums"].eval_docs[0]["choices"]
    del loaded["quinces"]
    problems = data.verify_docs("tiny", loaded)
    assert len(problems) == 4
    assert problems[0] == "apples: 5 items, not 6"
    assert problems[1].startswith("pears: different few-shot examples (sha256 ")
    assert problems[2:] == ("plums: its items have no field 'choices'", "quinces: missing")
    assert data.verify_docs("fruit", {"apples": loaded["apples"]}) == problems[:1], "a user's own group"
    assert data.verify_docs("other", {"other": LoadedTask([], [])}) == ()
    line = data.refusal("tiny", problems)
    assert line.startswith("tiny: the data differs from the known data: apples: 5 items, not 6; pears: ")
    assert "; and 1 more; " in line
    assert line.endswith("accuracy.verify_data=false")


DOCS = st.lists(st.fixed_dictionaries({"q": st.text(), "n": st.integers(), "k": st.dictionaries(st.text(), st.text())}))


@settings(max_examples=50)
@given(DOCS)
def test_a_digest_depends_on_content_and_order_and_not_on_how_it_is_stored(docs: list[dict[str, Any]]) -> None:
    digest = data.digest(docs, ("q", "k"))
    stored = [dict(reversed(doc.items())) | {"k": {**doc["k"], "\0none": None}, "more": 1} for doc in docs]
    assert data.digest(stored, ("k", "q")) == digest
    contents = [(doc["q"], doc["k"]) for doc in docs]
    assert (data.digest(reversed(docs), ("q", "k")) == digest) == (contents == contents[::-1])
