"""Rows and passages from files of every kind."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import rows
from quantize.checkpoint import CheckpointError
from quantize.rows import passages, read
from tests.support.texts import CHATS, TEXTS, write_lines, write_parquet


@given(st.lists(st.text(st.sampled_from("ab \n\r"), max_size=30), max_size=60), st.integers(1, 20))
@settings(max_examples=60)
def test_passages_keep_all_paragraphs_in_order(paragraphs: list[str], size: int) -> None:
    text = "\n".join(paragraphs).replace("\r", "")
    lines = text.splitlines(keepends=True)
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(rows, "PASSAGE_CHARACTERS", size)
        patched.setattr(rows, "LONGEST_CHARACTERS", 4 * size)
        done = list(passages(lines))
    words = [line for line in text.split("\n") if line.strip()]
    assert [line for passage in done for line in passage.split("\n") if line] == words
    assert all(len(passage) >= size for passage in done[:-1])


def test_paragraphs_of_a_text_file_are_gathered_into_passages(tmp_path: Path) -> None:
    file = tmp_path / "wiki.raw"
    paragraph = " " + "word " * 500
    file.write_text(f" \n = Title = \n \n{paragraph}\n \n{paragraph}\n\n = Next = \n\nEnd .\n")
    assert list(read(file)) == [f" = Title = \n\n{paragraph}\n\n{paragraph}", " = Next = \n\nEnd ."]


def test_text_without_blank_lines_still_becomes_passages(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    lines = [f"{number} " + "word " * 100 for number in range(200)]
    file.write_text("\n".join(lines))
    pieces = list(read(file))
    assert "\n".join(map(str, pieces)) == "\n".join(lines)
    assert {len(passage) // 1000 for passage in pieces[:-1]} == {16}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz", "a.parquet"])
@pytest.mark.parametrize(("column", "contents"), [("text", TEXTS), ("messages", CHATS)])
def test_every_kind_of_file_is_read_in_order(tmp_path: Path, name: str, column: str, contents: list[Any]) -> None:
    file = tmp_path / name
    if name.endswith(".parquet"):
        write_parquet(file, **{"id": list(range(len(contents))), column: contents})
    else:
        write_lines(file, [{"id": number, column: value} for number, value in enumerate(contents)])
    assert list(read(file)) == contents
    assert list(read(file, column=column)) == contents


def test_lines_of_a_data_set_are_the_lines_of_its_text(tmp_path: Path) -> None:
    lines = ["", " = Title = \n", "", " One . \n", " Two . \n", "", "\n"]
    parquet = write_parquet(tmp_path / "a.parquet", text=lines)
    raw = tmp_path / "a.raw"
    raw.write_text("".join(line or "\n" for line in lines))
    assert list(read(parquet, lines=True)) == list(read(raw)) == [" = Title = \n\n One . \n Two . "]


UNREADABLE = {
    ("a.jsonl", b'{"text": "x"}\nno json\n'): "a.jsonl:2: expected one JSON object per line",
    ("a.jsonl", b'{"text": 3}\n'): 'a.jsonl:1: expected a "text", or "messages"',
    ("a.jsonl", b'{"messages": []}\n'): "a.jsonl:1: expected",
    ("a.jsonl", b'{"messages": [{"role": "user"}]}\n'): "a.jsonl:1: expected",
    ("a.jsonl", b'"text"\n'): "a.jsonl:1: expected",
    ("a.jsonl", b'{"text": "\xff"}\n'): "cannot be read as .jsonl",
    ("a.txt", b"\xff\xfe"): "cannot be read as .txt",
    ("a.json.gz", b'{"text": "x"}\n'): "cannot be read as .gz",
    ("b.json.gz", gzip.compress(b'{"text": "x"}\n' * 999, mtime=0)[:-12]): "cannot be read as .gz",
    ("a.parquet", b"PAR1 no"): "a.parquet is not a Parquet file",
}


@pytest.mark.parametrize("file", UNREADABLE, ids=str)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, file: tuple[str, bytes]) -> None:
    path = tmp_path / file[0]
    path.write_bytes(file[1])
    with pytest.raises(CheckpointError) as caught:
        list(read(path))
    assert UNREADABLE[file] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_names_the_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", prompt=["x"], answer=["y"])
    with pytest.raises(CheckpointError, match="no column 'text'; its columns: prompt, answer"):
        list(read(file))
