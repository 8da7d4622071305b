"""Fixtures of the accuracy tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mirror_site import Site, site_in


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path) as running:
        yield running
