"""From a task of lm-eval to the data sets that it reads."""

from dataclasses import dataclass, field
from typing import Any

from bench.accuracy import data
from bench.accuracy.mirror import sources


@dataclass
class Entry:
    """The fields of lm-eval's index entries that are read."""

    cfg: dict[str, Any] | None
    tags: set[str] = field(default_factory=set)


def test_any_task_of_lm_eval_leads_to_its_data_sets() -> None:
    index = {
        "a": Entry({"task": "a", "dataset_path": "org/a"}, {"fruit"}),
        "b": Entry({"task": "b", "dataset_path": "org/b"}),
        "fruit": Entry(None, {"a"}),
        "group": Entry(
            {"group": "group", "task": ["a", {"task": "b"}, {"group": "inner", "task": ["fruit"]}, {"group": "c"}]}
        ),
        "c": Entry({"group": "c", "task": [{"task": "d", "dataset_path": "org/d"}]}),
        "own": Entry({"task": "own", "class": "Own"}),
    }
    expected = {"a": {"org/a"}, "fruit": {"org/a"}, "group": {"org/a", "org/b", "org/d"}, "own": set(), "none": set()}
    assert {name: sources.dataset_paths(index, name) for name in expected} == expected
    assert sources.source_of("org/a").files is None
    assert sources.source_of("cais/mmlu").revision == data.benchmarks()["mmlu"].revision
