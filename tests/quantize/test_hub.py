"""The hub over real HTTP: files, refusals, and interrupted downloads."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from quantize.describe import describe
from quantize.sources import hub as source
from tests.support.hub import COMMIT, Hub, Repo, clean_environment, offline_env, serve
from tests.support.model_folders import qwen3
from tests.support.paths import ROOT
from tests.support.program import Cli
from tests.support.tensors import write_safetensors

NAME = "Qwen/Qwen3-8B"
CODE = """
import json, sys
from pathlib import Path
from quantize.errors import SourceUnavailableError
from quantize.sources import hub
config = hub.Config.model_validate_json(sys.argv[1])
found = {}
try:
    if "describe" in sys.argv:
        name, architecture, length = hub.Hub(kind="hub", config=config).describe()
        found["described"] = [name, architecture.model_dump(), length]
    identity = hub.Hub(kind="hub", config=config).identity()
    found["identity"] = identity
    found["bytes"] = hub.Hub(kind="hub", config=config).download_bytes(identity)
    if "fetch" in sys.argv:
        found["provenance"] = hub.Hub(kind="hub", config=config).materialize(identity, None, Path(sys.argv[-1]))
        found["bytes_then"] = hub.Hub(kind="hub", config=config).download_bytes(identity)
except SourceUnavailableError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    file = tmp_path / "made.safetensors"
    write_safetensors(file, {"model.embed_tokens.weight": ("BF16", (500, 100))})
    return file.read_bytes()


@pytest.fixture
def hub(weights: bytes) -> Iterator[Hub]:
    files = {
        "config.json": json.dumps(qwen3("Qwen3-8B")).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": weights,
        "modeling_own.py": b"print('never run')",
        "README.md": b"#",
        "pytorch_model.bin": b"pickled",
        "consolidated.safetensors": weights,
        "original/params.json": b"{}",
    }
    with serve(Hub(repos={NAME: Repo(files=files)})) as running:
        yield running


class Ask:
    """Uses the hub source in a separate process, because huggingface_hub reads its settings once."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.target = folder
        self.env = hub.env(folder / "hf")

    def __call__(self, *words: str, env: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        self.target = Path(tempfile.mkdtemp(dir=self.folder))
        config = json.dumps({"repo": NAME, "revision": "main", **fields})
        done = subprocess.run(
            [sys.executable, "-c", CODE, config, *words, str(self.target)],
            env=clean_environment(PYTHONPATH=str(ROOT), QUANTBENCH_CACHE=str(self.folder), **(env or self.env)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        assert "\n" not in result.get("error", "")
        return result


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Ask:
    pytest.importorskip("huggingface_hub")
    return Ask(hub, tmp_path)


def test_a_revision_becomes_a_commit_and_only_what_is_read_is_fetched(ask: Ask, weights: bytes) -> None:
    result = ask("describe", "fetch")
    assert result["identity"] == {"repo": NAME, "commit": COMMIT}
    architecture, length = describe(qwen3("Qwen3-8B"))
    assert result["described"] == ["Qwen3-8B", architecture.model_dump(), length]
    assert result["provenance"] == f"{NAME} at commit {COMMIT} on the Hugging Face hub"
    assert {file.name for file in ask.target.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (ask.target / "model.safetensors").read_bytes() == weights
    assert result["bytes"] == len(weights) + len(b"{}"), "config.json was fetched to plan"
    assert result["bytes_then"] == 0
    files = {line.rpartition("/")[2] for line in ask.hub.asked if line.startswith("GET") and "/resolve/" in line}
    assert files == {"config.json", "tokenizer.json", "model.safetensors"}


def test_what_the_cache_holds_needs_no_hub(ask: Ask) -> None:
    online = ask("fetch")
    for env in (offline_env(ask.folder / "hf"), {**ask.env, "HF_HUB_OFFLINE": "1"}):
        offline = ask("describe", "fetch", env=env)
        assert offline["identity"] == online["identity"]
        assert offline["provenance"] == online["provenance"]
        assert offline["bytes"] is None


def test_a_commit_may_be_named(ask: Ask) -> None:
    assert ask(revision=COMMIT)["identity"]["commit"] == COMMIT
    assert "has no revision 'ffff" in ask(revision="f" * 40)["error"]


def test_each_refusal_of_the_hub_has_its_own_line(ask: Ask) -> None:
    lines = {
        "revision": ask(revision="v9")["error"],
        "repo": ask(repo="Qwen/Qwen3-9B")["error"],
        "name": ask(repo="a/b/c")["error"],
    }
    repo = ask.hub.repos[NAME]
    repo.gated = True
    lines["gated"] = ask()["error"]
    repo.gated = False
    del repo.files["config.json"]
    lines["file"] = ask()["error"]
    for status in (403, 404, 500):
        ask.hub.status = status
        lines[str(status)] = ask()["error"]
    assert lines["revision"] == f"{NAME} has no revision 'v9': type one of its branches, tags or commits"
    assert lines["repo"].startswith("the hub has no public repository Qwen/Qwen3-9B: check the name")
    assert lines["name"] == "'a/b/c' is not a repository name: type Organisation/Name"
    assert lines["gated"] == f"{NAME} is gated: accept its terms on the hub, then set HF_TOKEN (403)"
    assert lines["file"] == f"{NAME}@main has no config.json"
    assert lines["403"] == f"the hub refuses {NAME}@main (403): set HF_TOKEN to a token that may read it"
    assert lines["404"] == f"the hub has no {NAME}@main (404): check repository and revision"
    assert lines["500"].startswith(f"the hub answered 500 for {NAME}@main: try again later")
    assert not any("cannot reach" in line for line in lines.values())


def test_an_unreachable_hub_is_reported_as_unreachable(ask: Ask) -> None:
    for env in (offline_env(ask.folder / "hf"), {**ask.env, "HF_HUB_OFFLINE": "1"}):
        line = ask(env=env)["error"]
        assert line.startswith(f"cannot reach the hub for {NAME}@main (")
        assert "use model=smollm2-135m or model=local" in line


def test_an_interrupted_download_is_resumed(ask: Ask, tmp_path: Path) -> None:
    large = tmp_path / "large.safetensors"
    write_safetensors(large, {"model.embed_tokens.weight": ("BF16", (6_000, 1_000))})
    ask.hub.repos[NAME].files["model.safetensors"] = large.read_bytes()
    ask.hub.cut["model.safetensors"] = [11_000_000]
    assert "error" not in ask("fetch")
    (byte_range,) = ask.hub.ranges
    assert 10_000_000 <= int(byte_range.removeprefix("bytes=").removesuffix("-")) <= 11_000_000
    assert (ask.target / "model.safetensors").read_bytes() == large.read_bytes()


def test_what_is_refused_is_refused_before_the_weights_are_fetched(ask: Ask) -> None:
    repo = ask.hub.repos[NAME]
    quantized = json.dumps(qwen3("Qwen3-8B") | {"quantization_config": {"quant_method": "fp8"}}).encode()
    own = json.dumps(qwen3("Qwen3-8B") | {"auto_map": {"AutoModel": "modeling_own.Own"}}).encode()
    assert "is not quantized" in ask("fetch", quantized=True)["error"]
    repo.files["config.json"], repo.commit = quantized, "1" * 40
    assert f"{NAME}@main is already quantized (fp8)" in ask("fetch")["error"]
    assert "provenance" in ask("fetch", quantized=True)
    repo.files["config.json"], repo.commit = own, "2" * 40
    before = len(ask.hub.asked)
    assert "runs code of its own (auto_map in config.json)" in ask("fetch")["error"]
    assert not any("safetensors" in line for line in ask.hub.asked[before:])
    assert "provenance" in ask("fetch", revision="2" * 40, trust_remote_code=True)
    assert (ask.target / "modeling_own.py").is_file()


def test_a_truncated_shard_on_the_hub_is_named(ask: Ask, weights: bytes) -> None:
    ask.hub.repos[NAME].files["model.safetensors"] = weights[:-5]
    assert "model.safetensors is truncated" in ask("fetch")["error"]


def test_own_code_is_trusted_only_at_a_commit() -> None:
    for revision in ("main", "0123abc", "g" * 40):
        with pytest.raises(ValidationError, match=r"pin the commit: model\.source\.revision="):
            source.Config(repo=NAME, revision=revision, trust_remote_code=True)
    assert source.Config(repo=NAME, revision=COMMIT, trust_remote_code=True).trust_remote_code


def test_a_download_that_stops_for_good_is_one_clear_line(cli: Cli, hub: Hub) -> None:
    hub.cut["model.safetensors"] = [1_000] + [0] * 20
    done = cli("+model=qwen3-8b", "workload=none", "accuracy=none", **hub.env(cli.folder / "hf"))
    assert done.returncode == 1, done.stderr
    assert any("model.safetensors" in line for line in hub.asked), hub.asked
    assert f"cannot get {NAME}@{COMMIT} from the hub" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((cli.folder / "results").glob("runs/*/cells/*"))
