"""Read text files lazily: JSON lines, plain or gzipped; Parquet; plain text."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from quantize.checkpoint import CheckpointError

Chat = list[dict[str, Any]]
"""Messages, each with a ``role`` and a ``content``."""
Row = str | Chat
COLUMNS = ("text", "messages")
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz")
TEXT_SUFFIXES = (".txt", ".raw")
SUFFIXES = (*JSON_SUFFIXES, ".parquet", *TEXT_SUFFIXES)
PASSAGE_CHARACTERS = 4_000
"""Least length of passages that paragraphs are joined into, about a thousand tokens."""
LONGEST_CHARACTERS = 4 * PASSAGE_CHARACTERS
"""Least length of passages in text without paragraphs. Chosen."""
BATCH_ROWS = 256
"""Rows of a Parquet file that are read at once. Chosen: little memory, even for long chats."""


def _is_chat(value: Any) -> TypeGuard[Chat]:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in value
        )
    )


def _row(value: Any, where: str) -> Row:
    if isinstance(value, str) or _is_chat(value):
        return value
    raise CheckpointError(f'{where}: expected a "text", or "messages" that each have a "role" and a "content"')


def _json_rows(file: Path, column: str | None) -> Iterator[Row]:
    packed = file.name.endswith(".gz")
    with gzip.open(file, "rt", encoding="utf-8") if packed else file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{file}:{number}"
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise CheckpointError(f"{where}: expected one JSON object per line") from error
            names = (column,) if column else COLUMNS
            values = [fields[name] for name in names if name in fields] if isinstance(fields, dict) else []
            yield _row(values[0] if values else None, where)


def _parquet_rows(file: Path, column: str | None) -> Iterator[Row]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowInvalid

    try:
        with pq.ParquetFile(file) as table:
            columns = table.schema_arrow.names
            name = column or next((name for name in COLUMNS if name in columns), "text")
            if name not in columns:
                raise CheckpointError(f"{file} has no column '{name}'; its columns: {', '.join(columns)}")
            number = 0
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=[name]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _row(value, f"{file}, row {number}")
    except ArrowInvalid as error:
        raise CheckpointError(f"{file} is not a Parquet file ({str(error).splitlines()[0]})") from error


def passages(lines: Iterable[str]) -> Iterator[str]:
    """Join lines of running text into passages.

    A paragraph is a sequence of lines between blank lines. A passage ends with the paragraph that extends it to
    ``PASSAGE_CHARACTERS`` or, in text without blank lines, with the line that extends it to ``LONGEST_CHARACTERS``; the
    last passage of a file may be shorter. Paragraphs are joined by one blank line.
    """
    passage = ""
    blank = False
    for line in lines:
        if not line.strip():
            blank = True
            continue
        if len(passage) >= (PASSAGE_CHARACTERS if blank else LONGEST_CHARACTERS):
            yield passage
            passage = ""
        passage += ("\n\n" if blank else "\n") * bool(passage) + line.rstrip("\r\n")
        blank = False
    if passage:
        yield passage


def _lines_of(rows: Iterable[Row], file: Path) -> Iterator[str]:
    for row in rows:
        if not isinstance(row, str):
            raise CheckpointError(f"{file}: expected lines of text, got a chat")
        yield row


def _text_rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as stream:
        yield from passages(stream)


def read(file: Path, *, column: str | None = None, lines: bool = False) -> Iterator[Row]:
    """Yield the non-blank texts and chats of a file, in its order.

    Args:
        file: JSON lines, Parquet or plain text, by its suffix; plain text is joined into :func:`passages`.
        column: name of the field with the text or the messages; None for ``text``, or else ``messages``.
        lines: whether rows are lines of running text, which are joined into passages too.

    Raises:
        CheckpointError: the file cannot be read, or a row is neither a text nor a chat; names it.
    """
    try:
        if file.name.endswith(".parquet"):
            rows = _parquet_rows(file, column)
        elif file.name.endswith(TEXT_SUFFIXES):
            rows = _text_rows(file)
        else:
            rows = _json_rows(file, column)
        for row in passages(_lines_of(rows, file)) if lines else rows:
            if not isinstance(row, str) or row.strip():
                yield row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read as {file.suffix} ({str(error).splitlines()[0]})") from error
