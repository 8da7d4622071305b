"""Versions of installed packages, by import or package name; others have none."""

import importlib.metadata

from bench.machine.environment import installed_versions
from bench.toolchains.backends import NOT_DECISIVE, deciding_versions


def test_versions_are_those_of_what_is_installed() -> None:
    numpy = importlib.metadata.version("numpy")
    assert installed_versions(("numpy", "no-such-package")) == {"numpy": numpy}
    hydra = importlib.metadata.version("hydra-core")
    assert installed_versions(("hydra_core", "hydra-core")) == {"hydra_core": hydra, "hydra-core": hydra}


def test_packages_that_only_carry_data_decide_nothing() -> None:
    assert deciding_versions(("numpy", *NOT_DECISIVE)) == installed_versions(("numpy",))
