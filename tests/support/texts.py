"""Texts and chats in files of every kind, and the config that samples them."""

import gzip
import json
from pathlib import Path
from typing import Any

from quantize.texts import CalibrationConfig

TEXTS = [
    f"Text {number}: " + "the quick brown fox jumps over the lazy dog. " * (number % 5 + 1) for number in range(60)
]
CHATS = [
    [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "A number. " * 9}]
    for number in range(40)
]


def write_parquet(file: Path, **columns: list[Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, row_group_size=16)
    return file


def write_lines(file: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()) if file.name.endswith(".gz") else text.encode())
    return file


def config(name: str | Path, n: int = 4, length: int = 32, **more: Any) -> CalibrationConfig:
    return CalibrationConfig(set=str(name), n_samples=n, max_seq_len=length, **more)
