"""Questions and the journal of their answers: no recorded answer is lost or misread, wherever the file is truncated."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy.journal import Journal
from bench.accuracy.questions import Answer, Question, Sampling, finite, in_order, unique_tokens
from bench.errors import AccuracyError, StoreError
from tests.support.accuracy_jobs import kept
from tests.support.paths import ROOT

ids = st.lists(st.integers(0, 5), min_size=1, max_size=6).map(tuple)
asked = st.one_of(
    st.builds(Question, context=ids, choices=ids),
    st.builds(Question, context=ids, continuation=ids),
    st.builds(
        Question,
        context=ids,
        nth=st.integers(0, 2),
        sampling=st.builds(
            Sampling,
            max_new_tokens=st.integers(1, 2),
            stop=st.sampled_from([(), ("a",), ("a", "b"), ("ab",)]),
            temperature=st.sampled_from([0.0, 0.7]),
        ),
    ),
)
answers = st.builds(
    Answer,
    logprobs=st.lists(st.floats(-1e3, 0), max_size=3).map(tuple),
    greedy=st.lists(st.booleans(), max_size=3).map(tuple),
    text=st.none() | st.text(),
    cut=st.booleans(),
    cached_tokens=st.none() | st.integers(0, 9),
)


@settings(deadline=None)
@given(asked, asked)
def test_two_questions_have_one_digest_only_if_they_are_the_same(question: Question, other: Question) -> None:
    assert (question.digest() == other.digest()) == (question == other)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_a_log_probability_must_be_finite(bad: float | None) -> None:
    assert finite(-3.5) == -3.5
    with pytest.raises(AccuracyError, match=f"a log-probability of {bad}: its logits are not finite"):
        finite(bad)


@settings(max_examples=50, deadline=None)
@given(st.lists(ids, max_size=12))
def test_tokens_of_common_beginnings_count_once(prompts: list[tuple[int, ...]]) -> None:
    assert unique_tokens(prompts) == len({prompt[:n] for prompt in prompts for n in range(1, len(prompt) + 1)})


@settings(max_examples=50, deadline=None)
@given(st.lists(asked, max_size=12))
def test_questions_are_ordered_by_their_beginnings_and_backwards_the_other_way_round(batch: list[Question]) -> None:
    places = in_order(batch)
    assert sorted(places) == list(range(len(batch)))
    assert [batch[place].prompt for place in places] == sorted(question.prompt for question in batch)
    backwards = [batch[place].prompt for place in in_order(batch, backwards=True)]
    assert backwards == [batch[place].prompt for place in places][::-1]


@settings(max_examples=40, deadline=None)
@given(some=st.dictionaries(st.text("0123456789abcdef", min_size=20, max_size=20), answers, max_size=5), data=st.data())
def test_cut_anywhere_the_journal_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, some: dict[str, Answer], data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("journal") / "answers" / "task.jsonl"
    with Journal(file) as journal:
        for digest, answer in some.items():
            journal.add(digest, answer)
    assert kept(file) == (some, 0)
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    assert kept(file) == (dict(list(some.items())[:lines]), int(not whole[:cut].endswith(b"\n") and cut > 0))
    with Journal(file) as journal:
        assert journal.dropped == 0, "dropped lines are removed from the file"
        journal.add("next", Answer(text="è"))
    assert kept(file) == ({**dict(list(some.items())[:lines]), "next": Answer(text="è")}, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\n",
        b'["b", {"text": "caf\xff"}]\n',
        b"null\n",
        b'["b"]\n',
        b'["b", {"logprobs": "x"}]\n',
        b'["b", {"te\n',
    ],
)
def test_an_unreadable_line_is_dropped_at_any_place(tmp_path: Path, garbage: bytes) -> None:
    file = tmp_path / "task.jsonl"
    with Journal(file) as journal:
        journal.add("a", Answer(text="1"))
    file.write_bytes(garbage + file.read_bytes() + garbage[:-1])
    assert kept(file) == ({"a": Answer(text="1")}, 2)


def test_killed_while_it_writes_the_journal_loses_nothing_that_was_added(tmp_path: Path) -> None:
    file = tmp_path / "task.jsonl"
    script = (
        "import sys\nfrom pathlib import Path\nfrom bench.accuracy.journal import Journal\n"
        "from bench.accuracy.questions import Answer\njournal = Journal(Path(sys.argv[1]))\n"
        "for n in range(10**9):\n    journal.add(str(n), Answer(text='x' * 500))\n    print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    last = 0
    while last < 100:
        last = int(writer.stdout.readline())
    writer.kill()
    last = max([last, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    writer.wait()
    writer.stdout.close()
    entries, dropped = kept(file)
    assert {str(n) for n in range(last + 1)} <= entries.keys()
    assert dropped <= 1


def test_an_unwritable_journal_is_reported(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("in the way")
    with pytest.raises(StoreError, match="cannot keep answers in"):
        Journal(tmp_path / "answers" / "task.jsonl")


def test_a_full_disk_is_reported_at_the_first_lost_answer(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "task.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(file) as journal:
        journal.add("a", Answer(text="fits"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        try:
            with pytest.raises(StoreError, match="cannot keep answers in"):
                journal.add("b", Answer(text="x" * 1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
    assert kept(file) == ({"a": Answer(text="fits")}, 1)
