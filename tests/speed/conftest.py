"""Streaming servers with known times, one or two for the tests of a file."""

from collections.abc import Iterator

import pytest

from testkit.streamer import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def other() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
