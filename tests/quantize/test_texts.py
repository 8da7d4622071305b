"""Named sets and files of text: their origin and their identity."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from quantize import rows
from quantize.calibration import calibration_samples, heldout_identity, identity
from quantize.checkpoint import CheckpointError
from quantize.rows import read
from quantize.texts import DATA, HeldoutConfig, SetSpec, locate, set_names
from tests.support.hub import COMMIT, Hub, Repo, clean_environment, offline_env, serve
from tests.support.paths import ROOT
from tests.support.texts import CHATS, TEXTS, config, write_lines, write_parquet

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("name", set_names())
def test_every_named_set_is_complete_and_never_measured_on_what_it_calibrates(name: str) -> None:
    spec = SetSpec.load(name)
    assert spec.calibration != spec.heldout
    assert spec.title
    for pattern in (spec.calibration, spec.heldout):
        assert pattern.endswith(rows.SUFFIXES)
        assert spec.repo or (DATA / pattern).is_file()


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    again = write_lines(tmp_path / "b.jsonl", [{"text": "one"}])
    other = write_lines(tmp_path / "c.jsonl", [{"text": "two"}])
    assert identity(config(first), 0) == identity(config(again), 0) != identity(config(other), 0)
    assert identity(config(first), 0) != identity(config(first), 1)
    assert identity(config(first), 0) != identity(config(first, enable_thinking=True), 0)


def test_text_that_changed_since_the_plan_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    planned = identity(config(file), 0)
    calibration_samples(config(file), 0, tokenizer, planned)
    write_lines(file, [{"text": "other"}])
    with pytest.raises(CheckpointError, match="changed after the run was planned"):
        calibration_samples(config(file), 0, tokenizer, planned)


def test_unknown_sets_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file; use calibration\.set=embedded, another of c4, embedded"):
        identity(config("ultrachta"), 0)
    with pytest.raises(CheckpointError, match=r"use calibration\.heldout\.set=embedded"):
        heldout_identity(HeldoutConfig(set="/nowhere.txt", n_samples=None, max_seq_len=16))
    (tmp_path / "a.docx").touch()
    with pytest.raises(CheckpointError, match=r"unknown kind of file; supported are \.jsonl"):
        identity(config(tmp_path / "a.docx"), 0)


def test_a_mirror_comes_before_the_hub(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    for split in ("train", "test"):
        file = mirror / "HuggingFaceH4/ultrachat_200k/data" / f"{split}_sft-00000-of-00003-0a1b2c.parquet"
        write_parquet(file, prompt=["x"] * 40, messages=CHATS)
    write_lines(mirror / "allenai/c4/en/c4-validation.00000-of-00008.json.gz", [{"text": text} for text in TEXTS])
    monkeypatch.setenv("QUANTBENCH_HUB", str(mirror))
    _, fact, _ = calibration_samples(config("ultrachat"), 0, tokenizer, identity(config("ultrachat"), 0))
    assert fact.source == (
        "UltraChat 200k, chats: HuggingFaceH4/ultrachat_200k train_sft-00000-of-00003-0a1b2c.parquet "
        "in a local mirror of the hub"
    )
    assert fact.enable_thinking is False
    assert set(identity(config("ultrachat"), 0)["text"]) == {"sha256"}
    assert calibration_samples(config("c4"), 0, tokenizer)[1].id == "c4"
    assert locate("ultrachat", "heldout").fetch().name.startswith("test_sft")


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(PYTHONPATH=str(ROOT), **env),
        capture_output=True,
        text=True,
        timeout=120,
    )


PLAN = """
import json, sys
from quantize.calibration import heldout_identity, identity
from quantize.checkpoint import CheckpointError
from quantize.texts import CalibrationConfig, HeldoutConfig, locate
config = CalibrationConfig(set=sys.argv[1] if len(sys.argv) > 1 else NAME, n_samples=4, max_seq_len=32)
try:
    found = identity(config, 0)
    path = locate(config.set, "calibration", found["text"]).fetch()
    print(json.dumps([found["text"], str(path)]))
except CheckpointError as error:
    print(json.dumps(str(error)))
"""


def plan(name: str, **env: str) -> Any:
    done = python(PLAN.replace("NAME", repr(name)), **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def chats_repo(tmp_path: Path) -> Repo:
    file = write_parquet(tmp_path / "made/a.parquet", messages=CHATS)
    names = [
        f"data/{split}-00000-of-00003-deadbeef.parquet" for split in ("test_gen", "test_sft", "train_gen", "train_sft")
    ]
    bodies = [b"never fetched"] * 3 + [file.read_bytes()]
    files = {"README.md": b"never fetched", **dict(zip(names, bodies, strict=True))}
    return Repo(kind="dataset", files=files)


def test_a_named_set_comes_from_the_hub_at_a_commit_and_only_its_file(tmp_path: Path) -> None:
    with serve(Hub(repos={"HuggingFaceH4/ultrachat_200k": chats_repo(tmp_path)})) as hub:
        cache = {"QUANTBENCH_CACHE": str(tmp_path / "cache")}
        text, path = plan("ultrachat", **hub.env(tmp_path / "hf"), **cache)
        file = "data/train_sft-00000-of-00003-deadbeef.parquet"
        assert text == {"repo": "HuggingFaceH4/ultrachat_200k", "commit": COMMIT, "file": file}
        assert list(islice(read(Path(path)), 99)) == CHATS
        downloads = {line for line in hub.asked if line.startswith("GET") and "/resolve/" in line}
        assert {line.rpartition("/")[2] for line in downloads} == {Path(file).name}
        assert all(f"/resolve/{COMMIT}/" in line for line in downloads), "never the moving branch"
        offline = plan("ultrachat", **offline_env(tmp_path / "hf"), **cache)
        assert offline[0] == text, "the hub cache is enough"


def test_a_set_out_of_reach_says_what_to_type(tmp_path: Path) -> None:
    line = plan("ultrachat", **offline_env(tmp_path / "hf"))
    assert line.startswith("calibration set 'ultrachat': cannot reach the hub for HuggingFaceH4/ultrachat_200k@main")
    assert "use calibration.set=embedded, a file of text, or a local mirror of the hub (QUANTBENCH_HUB)" in line
    switched_off = plan("ultrachat", **{**offline_env(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"})
    assert "cannot reach the hub" in switched_off


def test_what_the_hub_refuses_is_not_called_out_of_reach(tmp_path: Path) -> None:
    home = tmp_path / "hf"
    with serve(Hub()) as hub:
        assert "the hub has no public repository allenai/c4" in plan("c4", **hub.env(home))
        hub.repos["allenai/c4"] = Repo(kind="dataset", files={"en/other.json.gz": b""}, branches=("main",))
        assert "has no file en/c4-validation.00000-of-00008.json.gz" in plan("c4", **hub.env(home))
        hub.repos["allenai/c4"].branches = ("master",)
        assert "allenai/c4 has no revision 'main'" in plan("c4", **hub.env(home))
        hub.status = 503
        assert "cannot reach" not in (line := plan("c4", **hub.env(home)))
        assert "the hub answered 503" in line


def test_planning_loads_no_heavy_package(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom quantize.calibration import *\n"
        "identity(CalibrationConfig(set='embedded', n_samples=1, max_seq_len=16), 0)\n"
        "heldout_identity(HeldoutConfig(set='embedded', n_samples=None, max_seq_len=16))\n"
        "print([name for name in sys.modules if name in "
        "('torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub', 'httpx', 'pandas')])"
    )
    done = python(code, QUANTBENCH_CACHE=str(tmp_path))
    assert done.stdout.strip() == "[]", done.stderr
