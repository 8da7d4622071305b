"""Fixtures of the tests of quantize."""

from pathlib import Path
from typing import Any

import pytest

from quantize.sources import random_weights


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("QUANTBENCH_HUB", raising=False)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    pytest.importorskip("transformers")
    return random_weights._tokenizer(1024)
