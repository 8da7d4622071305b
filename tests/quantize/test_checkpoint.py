import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.architecture import Architecture
from quantize.checkpoint import (
    MANIFEST_NAME,
    CheckpointError,
    bits_of,
    count_dtypes,
    link_tree,
    read_header,
    read_manifest,
    tensors,
    weight_files,
    with_units,
)
from quantize.key import Key, canonical_json
from quantize.method import choose_group_size
from quantize.proof import is_ignored
from tests.support.paths import FIXTURES
from tests.support.tensors import write_safetensors


def test_dtypes_are_counted_from_the_headers(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x.weight": ("BF16", (4, 4)), "x.scale": ("F32", (4,))})
    write_safetensors(tmp_path / "b.safetensors", {"y.weight": ("BF16", (2, 4))})
    headers = list(tensors(tmp_path))
    assert count_dtypes(headers) == {"BF16": 2, "F32": 1}
    assert {item.name: item.bytes for item in headers} == {"x.weight": 32, "x.scale": 16, "y.weight": 16}


def test_a_manifest_without_units_in_its_names_is_read(tmp_path: Path) -> None:
    """Written by a real build before version 0.1.0; a renamed field must not force a new build."""
    written = json.loads((FIXTURES / "manifests" / "without_units.json").read_bytes())
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(written))
    manifest = read_manifest(tmp_path)
    assert (manifest.build_s, manifest.proof_s) == (written["seconds"], written["proof_seconds"])
    assert manifest.fidelity is not None
    assert manifest.fidelity.kl_nats == written["fidelity"]["kl"]
    assert manifest.canaries is not None
    assert manifest.canaries.source.entropy_nats == written["canaries"]["source"]["entropy"]
    assert manifest.canaries.checkpoint.entropy_nats == written["canaries"]["found"]["entropy"]
    assert manifest.key.digest == Key.model_validate(written["key"]).digest
    (tmp_path / MANIFEST_NAME).write_text(manifest.model_dump_json())
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fidelity": 3, "canaries": [1]}', '{"canaries": {"source": 1}}'])
def test_an_unreadable_manifest_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(CheckpointError, match="has no readable manifest"):
        read_manifest(tmp_path)


def test_facts_of_a_manifest_are_upgraded_alone() -> None:
    """The costs file of an interrupted build."""
    assert with_units({"seconds": 2.5, "peak_rss_bytes": 7}) == {"build_s": 2.5, "peak_rss_bytes": 7}


@pytest.mark.parametrize("keep", [0, 5, 7, 8, 20, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"x.weight": ("BF16", (4, 4))})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"not a safetensors file|truncated"):
        read_header(file)


def test_a_file_without_tensors_is_complete(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {})
    assert read_header(tmp_path / "a.safetensors") == {"__metadata__": {"format": "pt"}}


def test_a_dtype_has_the_bits_in_its_name() -> None:
    dtypes = ("F64", "BF16", "F8_E4M3", "F8_E5M2", "F4", "I32", "I8", "U16", "BOOL")
    assert [bits_of(dtype) for dtype in dtypes] == [64, 16, 8, 8, 4, 32, 8, 16, 8]


def test_files_of_subfolders_are_linked_and_the_manifest_is_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    for name in ("config.json", "a/b/model.safetensors", MANIFEST_NAME):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    link_tree(source, target)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == [
        "a/b/model.safetensors",
        "config.json",
    ]
    assert (target / "config.json").samefile(source / "config.json")


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickled checkpoints are not supported"):
        weight_files(tmp_path)


def test_ignore_patterns_are_names_or_expressions() -> None:
    assert is_ignored("lm_head", ["lm_head"])
    assert not is_ignored("model.lm_head", ["lm_head"])
    assert is_ignored("model.layers.3.mlp.gate", ["re:.*mlp.gate$"])
    assert not is_ignored("model.layers.3.mlp.gate_proj", ["re:.*mlp.gate$"])


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), plain_json, max_size=4))
def test_a_key_depends_on_content_and_not_on_order(inputs: dict[str, object]) -> None:
    turned = dict(reversed(inputs.items()))
    assert Key(stage="s", version=1, inputs=inputs).digest == Key(stage="s", version=1, inputs=turned).digest
    assert Key(stage="s", version=2, inputs=inputs).digest != Key(stage="s", version=1, inputs=inputs).digest
    assert json.loads(canonical_json(inputs)) == inputs


@given(st.sampled_from([32, 64, 128]), st.integers(1, 40), st.integers(1, 40))
def test_the_chosen_group_size_divides_every_layer(preferred: int, a: int, b: int) -> None:
    shape = Architecture(
        layers=1,
        hidden_size=16 * a,
        intermediate_size=16 * b,
        heads=1,
        kv_heads=1,
        head_dim=16 * a,
        vocab_size=9,
        tied_embeddings=True,
    )
    widths = [columns for _, columns in shape.linear_shapes().values()]
    if any(width % 32 for width in widths):
        with pytest.raises(ValueError, match="does not divide"):
            choose_group_size(preferred, (64, 32), shape)
    else:
        size = choose_group_size(preferred, (64, 32), shape)
        assert size is not None
        assert all(width % size == 0 for width in widths)
