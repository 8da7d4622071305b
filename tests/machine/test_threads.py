"""Waiting threads release their core, unless the environment chooses how they wait."""

import pytest

from bench.config.compose import compose_job
from bench.engines import Engine
from bench.machine.threads import CHOICES, memory, waiting


def served_by() -> Engine:
    return compose_job(["+model=tiny-qwen3", "engine=transformers", "session=test"]).engine


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    assert waiting() == {"GOMP_SPINCOUNT": "5000"}
    assert "GOMP_SPINCOUNT" in served_by().environment("")
    monkeypatch.setenv(choice, "passive")
    assert waiting() == {}
    assert "GOMP_SPINCOUNT" not in served_by().environment("")


def test_huge_pages_are_used_unless_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert memory().items() <= served_by().environment("").items()
    assert memory() == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert memory() == {}
