"""Threads that wait give their core away, unless somebody chose how they wait."""

import pytest

from bench.engines import transformers
from bench.threads import CHOICES, waiting


@pytest.mark.parametrize("choice", CHOICES)
def test_what_somebody_chose_stays(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    assert waiting() == {"GOMP_SPINCOUNT": "5000"}
    assert "GOMP_SPINCOUNT" in transformers.environment(None, "")
    monkeypatch.setenv(choice, "passive")
    assert waiting() == {}
    assert "GOMP_SPINCOUNT" not in transformers.environment(None, "")
