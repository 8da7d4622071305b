"""Functions that the task files in this folder name with ``!function``: they load items and check answers.

lm-eval loads this file by its path, not as a part of the package. It calls a dataset function with the task's
metadata as keyword arguments; nothing here depends on them.
"""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset

HERE = Path(__file__).resolve().parent


def _splits(name: str, *splits: str) -> dict[str, Dataset]:
    def rows(split: str) -> list[dict[str, Any]]:
        with (HERE / f"{name}_{split}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return {split: Dataset.from_list(rows(split)) for split in splits}


def mmlu(**metadata: Any) -> dict[str, Dataset]:
    """Return the splits ``dev`` and ``test`` with fields subject, question, choices (four) and answer (0 to 3)."""
    return _splits("mmlu", "dev", "test")


def ceval(**metadata: Any) -> dict[str, Dataset]:
    """Return the splits ``dev`` and ``val`` with fields subject, question, A, B, C, D and answer (a letter)."""
    return _splits("ceval", "dev", "val")


def ifeval(**metadata: Any) -> dict[str, Dataset]:
    """Return the split ``test`` with IFEval's fields (key, prompt, instruction_id_list, kwargs) and ``example``.

    ``example`` is an answer that follows every instruction of its prompt; no model sees it.
    """
    return _splits("ifeval", "test")


def check_instructions(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Return lm-eval's four IFEval outcomes of one answer."""
    from lm_eval.tasks.ifeval import instructions, utils

    # Unseeded, the language detector may judge the same short answer differently in two runs.
    instructions.langdetect.DetectorFactory.seed = 0
    outcome: dict[str, Any] = utils.process_results(doc, results)
    return outcome
