"""Hash files once and cache the result, so that a checkpoint of 470 GB is not read before every run.

A cached hash is used only while the file's real path, size, modification time and inode are unchanged. The cache folder
has one small file per hashed file.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from quantize.checkpoint import hash_file
from quantize.key import sha256_text
from quantize.paths import cache_dir

SETTLED_NS = 2_000_000_000
"""Least age of a file for its hash to be cached: a newer file could change again within the same time stamp."""
LARGE_BYTES = 10**9
"""Size above which hashing is logged, because it takes seconds."""

log = logging.getLogger("quantize.hashes")


def _state(file: Path) -> dict[str, Any]:
    status = file.stat()
    return {"path": str(file), "size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _recall(memo: Path) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(memo.read_bytes())
    except (OSError, ValueError):
        return {}
    return entry


def _remember(memo: Path, entry: dict[str, Any]) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    part = memo.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(entry))
    part.replace(memo)


def remembered_sha256(file: Path) -> str:
    """Return the hex SHA-256 of the file's bytes, which are read again only if the file has changed."""
    real = file.resolve()
    state = _state(real)
    memo = cache_dir() / "hashes" / f"{sha256_text(str(real))[:32]}.json"
    entry = _recall(memo)
    sha256 = entry.pop("sha256", None)
    if entry == state and isinstance(sha256, str):
        return sha256
    if state["size"] > LARGE_BYTES:
        log.info("hashing %s (%.1f GB), needed only once", real, state["size"] / 1e9)
    sha256 = hash_file(real).sha256
    if _state(real) == state and time.time_ns() - state["mtime_ns"] > SETTLED_NS:
        _remember(memo, {**state, "sha256": sha256})
    return sha256
