"""The embedded benchmark sets and texts: complete, balanced, solvable, disjoint, and loadable without a network."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy import tasks
from quantize.rows import read
from quantize.texts import DATA

LETTERS = "ABCD"


def rows(name: str) -> list[dict[str, Any]]:
    lines = (tasks.MINI_DIR / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def choices(item: dict[str, Any]) -> list[str]:
    return item["choices"] if "choices" in item else [item[letter] for letter in LETTERS]


def right(item: dict[str, Any]) -> int:
    return LETTERS.index(item["answer"]) if isinstance(item["answer"], str) else item["answer"]


def in_lm_eval(script: str, cwd: Path) -> Any:
    """Run ``script`` offline in a separate process (lm-eval's imports warn) and return the JSON it prints last."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed")
    root = Path(tasks.__file__).resolve().parents[2]
    variables = os.environ | tasks.environment(None, None) | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "dev", "n_items", "n_subjects"),
    [("mmlu_test", "mmlu_dev", 64, 8), ("ceval_val", "ceval_dev", 48, 6)],
)
def test_choice_sets_are_complete_balanced_and_disjoint(name: str, dev: str, n_items: int, n_subjects: int) -> None:
    items, shots = rows(f"{name}.jsonl"), rows(f"{dev}.jsonl")
    assert len(items) == n_items
    assert len(shots) == 5
    questions = [item["question"] for item in items + shots]
    assert len(set(questions)) == len(questions)
    for item in items + shots:
        assert len(choices(item)) == len(set(choices(item))) == 4
    assert set(Counter(map(right, items)).values()) == {n_items // 4}
    assert {right(shot) for shot in shots} == {0, 1, 2, 3}
    assert Counter(item["subject"] for item in items) == dict.fromkeys({item["subject"] for item in items}, 8)
    assert len({item["subject"] for item in items}) == n_subjects
    for item in items:
        same = [other for other in items if other["subject"] == item["subject"]]
        assert set(Counter(map(right, same)).values()) == {2}, "a subject's answers must not favour one letter"


def test_the_first_items_cover_every_subject() -> None:
    # lm-eval's limit takes the first items.
    for name, n_subjects in (("mmlu_test", 8), ("ceval_val", 6)):
        assert len({item["subject"] for item in rows(f"{name}.jsonl")[:n_subjects]}) == n_subjects


def test_instruction_set_is_complete() -> None:
    items = rows("ifeval_test.jsonl")
    assert len(items) == 32
    assert [item["key"] for item in items] == list(range(1, 33))
    assert len({item["prompt"] for item in items}) == 32
    assert all(len(item["instruction_id_list"]) == len(item["kwargs"]) for item in items)
    assert len({name for item in items for name in item["instruction_id_list"]}) == 25


def test_every_example_answer_follows_its_instructions(tmp_path: Path) -> None:
    script = f"""
import json, sys
sys.path.insert(0, {str(tasks.MINI_DIR)!r})
import mini_tasks
from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
unknown, unsolved = [], []
for doc in mini_tasks.ifeval()["test"]:
    for name, kwargs in zip(doc["instruction_id_list"], doc["kwargs"], strict=True):
        given = {{key: value for key, value in kwargs.items() if value is not None}}
        checker = INSTRUCTION_DICT[name](name)
        checker.build_description(**given)
        used = checker.get_instruction_args() or {{}}
        if any(used[key] != value for key, value in given.items()) or set(used) != set(given):
            unknown.append([doc["key"], name])
    outcome = mini_tasks.check_instructions(doc, [doc["example"]])
    if not outcome["prompt_level_strict_acc"]:
        unsolved.append([doc["key"], outcome["inst_level_strict_acc"]])
print(json.dumps([unknown, unsolved]))
"""
    assert in_lm_eval(script, tmp_path) == [[], []]


def test_tasks_run_in_lm_eval_offline_from_any_folder(tmp_path: Path) -> None:
    script = f"""
import json
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from bench.accuracy.tasks import MINI_TASKS
manager = TaskManager(include_path={str(tasks.MINI_DIR)!r})
found = simple_evaluate(model="dummy", tasks=list(MINI_TASKS), task_manager=manager, limit=2, bootstrap_iters=0)
prompts = {{name: found["samples"][name][0]["arguments"] for name in MINI_TASKS}}
print(json.dumps([found["versions"], found["n-shot"], prompts]))
"""
    versions, shots, prompts = in_lm_eval(script, tmp_path)
    assert versions == dict.fromkeys(tasks.MINI_TASKS, 1.0)
    assert shots == {"mini-mmlu": 5, "mini-ceval": 5, "mini-ifeval": 0}
    for name, ending in (("mini-mmlu", "\nAnswer:"), ("mini-ceval", "\n答案：")):
        contexts, continuations = zip(*prompts[name], strict=True)
        assert continuations == (" A", " B", " C", " D")
        assert len(set(contexts)) == 1
        assert contexts[0].count(ending) == 6
        assert contexts[0].endswith(ending)
    assert prompts["mini-ifeval"][0][1] == {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 160}


def test_texts_are_complete_and_disjoint() -> None:
    calibration, heldout = (list(read(DATA / f"{name}.jsonl")) for name in ("calibration", "heldout"))
    assert len(calibration) == len(set(calibration)) == 64
    assert len(heldout) == len(set(heldout)) == 12
    assert sum(len(text.split()) for text in calibration) > 8000

    def runs(texts: list[str]) -> set[str]:
        return {text[start : start + 40] for text in texts for start in range(len(text) - 39)}

    assert not runs(calibration) & runs(heldout), "no 40 consecutive characters may be in both"
