"""``python -m quantize.step STEP.json``: produce one checkpoint's weights, in the toolchain that the backend needs.

This is the boundary between environments: JSON in, a checkpoint folder and ``STEP.made`` out. It imports only
``quantize``, pydantic and the backend's own library. It ends with its parent.
"""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from quantize.architecture import Architecture
from quantize.backend import QuantizeResult
from quantize.bf16 import multiply_in_float32
from quantize.errors import explain_failure
from quantize.imports import import_transformers
from quantize.key import Frozen
from quantize.method import method
from quantize.parent import end_with_parent


class Step(Frozen):
    """The checkpoint to produce."""

    method: str
    """Module in ``quantize.methods``."""
    config: dict[str, Any]
    architecture: Architecture
    source: Path
    target: Path
    samples: tuple[tuple[int, ...], ...]


def make(step: Step) -> QuantizeResult:
    """Write the checkpoint and return facts about it."""
    chosen = method(step.method, step.config)
    if chosen.backend:
        import_transformers()
    multiply_in_float32()
    return chosen.quantize(step.architecture, step.source, step.target, step.samples)


def main(argv: list[str]) -> int:
    """Run the step file named by the only argument and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    file = Path(argv[0])
    end_with_parent()
    step = Step.model_validate_json(file.read_bytes())
    try:
        result = make(step)
        file.with_suffix(".made").write_text(result.model_dump_json())
    except Exception as error:  # noqa: BLE001 - the boundary of the process: any error becomes one line and a log
        message = explain_failure(error)
        shutil.rmtree(step.target, ignore_errors=True)  # before anything is written to a disk that may be full
        file.with_suffix(".error").write_text(message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
