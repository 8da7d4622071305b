"""Checkpoints from other tools: described by their config.json, checked before they are read, never changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import hashes
from quantize.architecture import Architecture
from quantize.checkpoint import MANIFEST_NAME, FileFact, hash_folder
from quantize.describe import FAMILIES, describe
from quantize.errors import SourceUnavailableError
from quantize.folder import INDEX
from quantize.hashes import remembered_sha256
from quantize.sources import local
from tests.support.model_folders import QWEN3, TENSORS, qwen3, sharded
from tests.support.tensors import write_safetensors

pytestmark = pytest.mark.usefixtures("own_cache")


def count(config: dict[str, Any]) -> int:
    """Return the number of weights of the model that transformers builds from ``config``."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    fields = {name: value for name, value in config.items() if name != "model_type"}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(config["model_type"], **fields)
        )
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", QWEN3)
def test_a_described_model_has_the_weights_of_the_real_one(name: str) -> None:
    config = qwen3(name)
    architecture, context_length = describe(config)
    assert architecture.parameters() == count(config) == QWEN3[name][1]
    assert context_length == 40_960


def test_the_shipped_shapes_of_qwen3_8b_are_those_described() -> None:
    from bench.config.compose import compose_job

    spec = compose_job(["+model=qwen3-8b"]).model
    assert (spec.architecture, spec.context_length) == describe(qwen3("Qwen3-8B"))


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    layers=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    width=st.sampled_from([8, 16]),
    head_dim=st.none() | st.sampled_from([8, 24]),
    tied=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_description_agrees_with_transformers(
    family: str, layers: int, kv_heads: int, groups: int, width: int, head_dim: int | None, tied: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    heads = kv_heads * groups
    fields: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": heads * width,
        "intermediate_size": 40,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 64,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 777,
    }
    if head_dim and family != "qwen2":
        fields["head_dim"] = head_dim
    if family == "qwen3_moe":
        fields |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    written = json.loads(transformers.AutoConfig.for_model(family, **fields).to_json_string(use_diff=True))
    for config in ({"model_type": family, **fields}, written):
        architecture, context_length = describe(config)
        assert architecture.parameters() == count({"model_type": family, **fields})
        assert architecture.head_dim == (head_dim if "head_dim" in fields else 128 if family == "qwen3" else width)
        assert context_length == 777


def test_omitted_fields_mean_the_defaults_of_transformers() -> None:
    config = qwen3("Qwen3-0.6B") | {"model_type": "llama"}
    del config["num_key_value_heads"], config["head_dim"], config["tie_word_embeddings"]
    architecture = describe(config)[0]
    assert (architecture.kv_heads, architecture.head_dim, architecture.tied_embeddings) == (16, 64, False)
    assert architecture.parameters() == count(config)


@pytest.mark.parametrize(("family", "not_counted"), [("mistral", 0), ("qwen2", 0), ("llama", 28 * 1024)])
def test_attention_bias_counts_as_in_transformers_except_at_the_output_projection(
    family: str, not_counted: int
) -> None:
    config = qwen3("Qwen3-0.6B") | {"model_type": family, "attention_bias": True, "head_dim": 64}
    assert count(config) - describe(config)[0].parameters() == not_counted


WRONG_CONFIGS: dict[str, dict[str, Any]] = {
    "model type 'gpt2'; supported are llama, mistral, qwen2, qwen3, qwen3_moe": {"model_type": "gpt2"},
    "model type 'None'": {"model_type": None},
    "has no number for vocab_size": {"vocab_size": None},
    "has no number for num_key_value_heads": {"num_key_value_heads": None},
    "has no number for hidden_size": {"hidden_size": "4096"},
    "mixes layers with and without experts": {"model_type": "qwen3_moe", "mlp_only_layers": [1]},
    "has no number for num_experts": {"model_type": "qwen3_moe"},
}


@pytest.mark.parametrize("line", WRONG_CONFIGS)
def test_what_cannot_be_described_says_why(line: str) -> None:
    with pytest.raises(ValueError, match=r"^config\.json") as caught:
        describe(qwen3("Qwen3-8B") | WRONG_CONFIGS[line])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sharded(tmp_path / "my-model")


ARCHITECTURE = Architecture(
    layers=1, hidden_size=4, intermediate_size=4, heads=1, kv_heads=1, head_dim=4, vocab_size=8, tied_embeddings=False
)


def here(**fields: Any) -> local.Local:
    return local.Local(kind="local", config=local.Config(**fields))


def taken(source: local.Local, target: Path) -> set[str]:
    target.mkdir()
    source.materialize(source.identity(), ARCHITECTURE, target)
    return {file.name for file in target.iterdir()}


def test_a_sharded_folder_is_described_identified_and_taken(folder: Path, tmp_path: Path) -> None:
    config = here(path=folder)
    assert config.describe() == ("my-model", *describe(qwen3("Qwen3-0.6B")))
    (folder / "README.md").touch()
    (folder / "modeling_own.py").touch()
    (folder / "consolidated.safetensors").touch()
    (folder / "training_args.bin").touch()
    (folder / MANIFEST_NAME).write_text("{}")
    names = {"config.json", INDEX, *TENSORS, "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert taken(config, tmp_path / "target") == names | {"chat_template.jinja"}


def test_a_folder_with_one_file_is_taken(folder: Path, tmp_path: Path) -> None:
    for name in (*TENSORS, INDEX):
        (folder / name).unlink()
    write_safetensors(folder / "model.safetensors", TENSORS["model-00001-of-00002.safetensors"])
    assert "model.safetensors" in taken(here(path=folder), tmp_path / "target")


def test_what_is_written_in_the_cache_never_reaches_the_folder(folder: Path, tmp_path: Path) -> None:
    before = hash_folder(folder)
    taken(here(path=folder), tmp_path / "target")
    for file in (tmp_path / "target").iterdir():
        if file.suffix != ".safetensors":
            file.write_text("changed")
    assert hash_folder(folder) == before


def test_a_folder_is_known_by_its_files(folder: Path, tmp_path: Path) -> None:
    first = here(path=folder).identity()
    assert here(path=sharded(tmp_path / "copy")).identity() == first
    (folder / "README.md").write_text("irrelevant")
    assert here(path=folder).identity() == first
    (folder / "generation_config.json").write_text('{"temperature": 1}')
    assert here(path=folder).identity() != first


def test_a_folder_that_changed_after_the_plan_is_refused(folder: Path, tmp_path: Path) -> None:
    config = here(path=folder)
    planned = config.identity()
    (folder / "tokenizer.json").write_text('{"other": 1}')
    with pytest.raises(SourceUnavailableError, match="changed after the run was planned"):
        config.materialize(planned, ARCHITECTURE, tmp_path)


def rewrite(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_text(json.dumps(qwen3("Qwen3-0.6B") | fields))


def drop(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def only_pickles(folder: Path) -> None:
    drop(*TENSORS, INDEX)(folder)
    (folder / "pytorch_model.bin").touch()


def cut(folder: Path) -> None:
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def extra_tensor(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.0.q_proj.weight"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


FAULTS: dict[str, Callable[[Path], object]] = {
    "has no config.json: it is not a checkpoint folder": drop("config.json"),
    "config.json cannot be read": lambda folder: (folder / "config.json").write_text("{"),
    "config.json is not a JSON object": lambda folder: (folder / "config.json").write_text("[]"),
    "pickled checkpoints are not supported; if you trust it, convert it": only_pickles,
    "has neither model.safetensors nor model.safetensors.index.json": drop(*TENSORS, INDEX),
    "has shards but no model.safetensors.index.json": drop(INDEX),
    "model-00002-of-00002.safetensors is truncated": cut,
    "shard model-00001-of-00002.safetensors, listed in model.safetensors.index.json, is missing": drop(
        "model-00001-of-00002.safetensors"
    ),
    "shard model-00001-of-00002.safetensors and 1 more, listed in model.safetensors.index.json, is missing": drop(
        *TENSORS
    ),
    "lists model.layers.0.q_proj.weight in model-00001-of-00002.safetensors, which does not have it": extra_tensor,
    "has no weight_map": lambda folder: (folder / INDEX).write_text("{}"),
    "has no tokenizer (none of tokenizer.json, tokenizer.model, vocab.json)": drop("tokenizer.json"),
    "is already quantized (fp8): use the 16-bit checkpoint as the model, and this one as quant.source=": rewrite(
        quantization_config={"quant_method": "fp8"}
    ),
    "runs code of its own (auto_map in config.json): read it, then type model.source.trust_remote_code=true": rewrite(
        auto_map={"AutoModelForCausalLM": "modeling_own.Own"}
    ),
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_faulty_folder_gets_one_clear_line(folder: Path, line: str) -> None:
    FAULTS[line](folder)
    with pytest.raises(SourceUnavailableError) as caught:
        here(path=folder).identity()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_folder_says_what_to_type(tmp_path: Path) -> None:
    for ask in (local.Local.identity, local.Local.describe):
        with pytest.raises(SourceUnavailableError, match=r"no such folder; type model\.source\.path=FOLDER"):
            ask(here(path=tmp_path / "nowhere"))


def test_own_code_is_taken_only_where_it_is_trusted(folder: Path, tmp_path: Path) -> None:
    rewrite(auto_map={"AutoModelForCausalLM": "modeling_own.Own"})(folder)
    (folder / "modeling_own.py").write_text("1")
    trusted = here(path=folder, trust_remote_code=True)
    first = trusted.identity()
    assert "modeling_own.py" in taken(trusted, tmp_path / "target")
    (folder / "modeling_own.py").write_text("2")
    assert trusted.identity() != first
    rewrite(auto_map={"AutoModelForCausalLM": "other/repo--modeling_own.Own"})(folder)
    with pytest.raises(SourceUnavailableError, match="runs code of another repository"):
        trusted.identity()


def test_a_quantized_release_is_taken_where_one_is_wanted(folder: Path, tmp_path: Path) -> None:
    release = here(path=folder, quantized=True)
    with pytest.raises(SourceUnavailableError, match=r"is not quantized: its config\.json has no quantization_config"):
        release.identity()
    rewrite(quantization_config={"quant_method": "awq"})(folder)
    assert set(TENSORS) < taken(release, tmp_path / "target")


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(file: Path, original: Any = hashes.hash_file) -> Any:
        read.append(file.name)
        return original(file)

    monkeypatch.setattr(hashes, "hash_file", counted)
    file = tmp_path / "a"
    file.write_bytes(b"one")
    first = remembered_sha256(file)
    remembered_sha256(file)
    assert len(read) == 2, "a file written just now could change again within the same time stamp"
    os.utime(file, ns=(1, 1))
    assert {remembered_sha256(file), remembered_sha256(file)} == {first}
    (tmp_path / "link").symlink_to(file)
    assert remembered_sha256(tmp_path / "link") == first
    assert len(read) == 3
    file.write_bytes(b"two")
    os.utime(file, ns=(2, 2))
    assert remembered_sha256(file) != first
    other = tmp_path / "b"
    other.write_bytes(b"six")
    os.utime(other, ns=(2, 2))
    other.replace(file)
    third = remembered_sha256(file)
    assert len(read) == 5, "same path, size and time, but another file"
    for memo in (tmp_path / "cache/hashes").iterdir():
        memo.write_text("{")
    assert remembered_sha256(file) == third
    assert len(read) == 6


@pytest.mark.parametrize(("size", "n_messages"), [(10**9, 0), (10**9 + 1, 1)])
def test_only_a_file_of_more_than_a_gigabyte_is_announced(
    size: int, n_messages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    os.truncate(file, size)
    monkeypatch.setattr(hashes, "hash_file", lambda _: FileFact(sha256="0", bytes=size))
    with caplog.at_level("INFO", logger="quantize.hashes"):
        assert remembered_sha256(file) == "0"
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"hashing {file} (1.0 GB), needed only once"] * n_messages
