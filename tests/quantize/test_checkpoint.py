import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.architecture import Architecture
from quantize.checkpoint import CheckpointError, count_dtypes, read_header, tensors, weight_files
from quantize.key import Key, canonical_json
from quantize.method import choose_group_size
from quantize.proof import is_ignored
from tests.support.tensors import write_safetensors


def test_dtypes_are_counted_from_the_headers(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x.weight": ("BF16", (4, 4)), "x.scale": ("F32", (4,))})
    write_safetensors(tmp_path / "b.safetensors", {"y.weight": ("BF16", (2, 4))})
    found = list(tensors(tmp_path))
    assert count_dtypes(found) == {"BF16": 2, "F32": 1}
    assert {item.name: item.bytes for item in found} == {"x.weight": 32, "x.scale": 16, "y.weight": 16}


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file, {"x.weight": ("BF16", (4, 4))})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"not a safetensors file|cut off"):
        read_header(file)


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickled checkpoints are not read"):
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
def test_the_chosen_group_size_divides_every_layer(wanted: int, a: int, b: int) -> None:
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
            choose_group_size(wanted, (64, 32), shape)
    else:
        size = choose_group_size(wanted, (64, 32), shape)
        assert size is not None
        assert all(width % size == 0 for width in widths)
