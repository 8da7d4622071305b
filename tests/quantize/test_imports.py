"""A package that model processes skip remains importable for others."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

CODE = """
import sys
from quantize.imports import without_sklearn
without_sklearn()
from transformers import AutoModelForCausalLM
from transformers.generation import candidate_generator
print("sklearn" in sys.modules)
import sklearn
print("sklearn" in sys.modules)
"""


def test_transformers_leaves_sklearn_out_and_own_code_may_still_import_it() -> None:
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True"]
