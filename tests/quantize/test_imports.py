"""Packages that model processes skip remain importable for others, and garbage is collected afterwards."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

CODE = """
import gc, sys
from quantize.imports import UNUSED, import_transformers
import_transformers()
from transformers.generation import candidate_generator
from transformers.loss import loss_for_object_detection
print(*(name in sys.modules for name in UNUSED))
import scipy, sklearn
print(*(name in sys.modules for name in UNUSED))
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


def test_transformers_leaves_unused_packages_out_and_own_code_may_still_import_them() -> None:
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["False False", "True True", "True True"]
