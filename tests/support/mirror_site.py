"""A hub with one small data set, tasks of lm-eval that read it, and the program with both."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.accuracy import data
from bench.accuracy.data import Leaf
from tests.support.hub import COMMIT, Hub, Repo, clean_environment, serve
from tests.support.paths import ROOT

REPO = "org/tiny"
SUBJECTS = ("apples", "pears", "plums", "quinces")
SPLITS = {"test": 6, "dev": 2}
LARGE = bytes(10_600_000)
"""More than 10 MiB, which the hub's client buffers before it writes."""
YAML = """
task: {name}
dataset_path: org/tiny
dataset_name: {name}
test_split: test
fewshot_split: dev
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
TOML = """
[tiny]
title = "Tiny"
repo = "org/tiny"
revision = "{commit}"
licence = "MIT"
files = ["README.md", "*/dev-*", "*/test-*", "large.bin"]
not_files = ["all/*"]
tasks_dir = "{folder}"
fields = ["question", "choices", "answer"]

[tiny.leaves]
"""
COMMAND = """
import sys
from pathlib import Path
from bench.accuracy import data
data.FILE = Path(sys.argv[1])
from bench.commands.mirror import main
sys.exit(main(sys.argv[2:]))
"""
"""The program with another list of benchmarks."""


def items(subject: str, split: str) -> list[dict[str, Any]]:
    return [
        {"id": n, "question": f"{split} {n} of {subject}?", "choices": ["a", "b", "c", "d"], "answer": n % 4}
        for n in range(SPLITS[split])
    ]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame(rows).to_parquet(stream)
    return stream.getvalue()


def repository() -> dict[str, bytes]:
    """Return a data set in the hub's layout: a card with its configs, one of which no task reads."""
    configs = [
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in SPLITS)
        for name in (*SUBJECTS, "all")
    ]
    files = {
        f"{subject}/{split}-00000-of-00001.parquet": parquet(items(subject, split))
        for subject in SUBJECTS
        for split in SPLITS
    }
    return {
        **files,
        "README.md": f"---\nconfigs:\n{''.join(configs)}---\n# Tiny\n".encode(),
        "all/test-00000-of-00001.parquet": bytes(1000),
        "script.py": b"print('never run')",
        "large.bin": LARGE,
    }


def known_leaf(subject: str) -> Leaf:
    test, dev = (items(subject, split) for split in SPLITS)
    fields = ("question", "choices", "answer")
    return Leaf(
        items=len(test), sha256=data.digest(test, fields), examples=len(dev), examples_sha256=data.digest(dev, fields)
    )


@dataclass
class Site:
    """A hub with one data set, the list of benchmarks with it; calling it runs the command."""

    folder: Path
    hub: Hub = field(default_factory=lambda: Hub(repos={REPO: Repo(files=repository(), kind="dataset")}))

    @property
    def out(self) -> Path:
        return self.folder / "mirror"

    @property
    def knowledge(self) -> Path:
        return self.folder / "benchmarks.toml"

    def write_knowledge(self, commit: str = COMMIT) -> None:
        yaml_dir = self.folder / "yaml"
        yaml_dir.mkdir(exist_ok=True)
        (yaml_dir / "tiny.yaml").write_text(f"group: tiny\ntask: [{', '.join(SUBJECTS)}]\n")
        text = TOML.format(commit=commit, folder=yaml_dir)
        for subject in SUBJECTS:
            (yaml_dir / f"{subject}.yaml").write_text(YAML.format(name=subject))
            facts = known_leaf(subject).model_dump()
            text += f"{subject} = {{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in facts.items())} }}\n"
        self.knowledge.write_text(text)

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        place = {"QUANTBENCH_CACHE": str(self.folder / "cache"), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", COMMAND, str(self.knowledge), *arguments],
            env=clean_environment(**{**place, **self.hub.env(self.folder / "hf"), **env}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def build(self, **env: str) -> subprocess.CompletedProcess[str]:
        return self("build", "--tasks", "tiny", "--out", str(self.out), **env)


@contextlib.contextmanager
def site_in(folder: Path) -> Iterator[Site]:
    pytest.importorskip("lm_eval")
    pytest.importorskip("huggingface_hub")
    site = Site(folder)
    site.write_knowledge()
    with serve(site.hub):
        yield site
