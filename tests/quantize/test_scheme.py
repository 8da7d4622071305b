"""Mixed checkpoints and NVIDIA ModelOpt's exports are read as declared, proven layer by layer, or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.checkpoint import CheckpointError
from quantize.formats import FP4_VALUES, integers
from quantize.method import Expected
from quantize.proof import expected_of_release, prove
from quantize.reader import Reader
from quantize.scheme import modelopt_form, scheme_of
from tests.support.native import modelopt_parts, write_modelopt

torch = pytest.importorskip("torch")

from quantize.weights import prove_weights  # noqa: E402

ATTENTION, MLP = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
MIXED = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": INT4, "format": "pack-quantized"},
        "group_1": {"targets": ["re:.*self_attn.*"], "weights": FP8, "format": "float-quantized"},
        "group_2": {"targets": [MLP], "weights": {**INT4, "num_bits": 8}, "format": "pack-quantized"},
    },
}
WANTED = {
    "FP8": Expected(format=modelopt_form("FP8", None), ignore=("lm_head", "re:.*mlp.gate$")),
    "NVFP4": Expected(format=modelopt_form("NVFP4", 16), ignore=("lm_head", "re:.*mlp.gate$")),
}


def test_a_layer_has_the_format_of_the_group_that_names_it() -> None:
    scheme = scheme_of(MIXED)
    assert str(scheme.of("model.layers.0.mlp.up_proj")).startswith("int4, scales per 32 columns")
    assert str(scheme.of(ATTENTION)).startswith("float8, scales per channel")
    assert str(scheme.of(MLP)).startswith("int8, scales per 32 columns")
    assert str(scheme).count(" and ") == 2
    only = {**MIXED, "config_groups": {"group_1": MIXED["config_groups"]["group_1"]}}  # type: ignore[index]
    assert scheme_of(only).of("model.layers.0.mlp.up_proj") is None


def test_thousands_of_named_experts_are_found_at_once() -> None:
    names = [f"model.layers.{layer}.mlp.experts.{n}.up_proj" for layer in range(60) for n in range(256)]
    layers = {name: {"quant_algo": "NVFP4", "group_size": 16} for name in names}
    scheme = scheme_of({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    assert {scheme.of(name) for name in names} == {modelopt_form("NVFP4", 16)}
    assert scheme.of("model.layers.60.mlp.experts.0.up_proj") is None


@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4"])
def test_a_layer_of_modelopt_is_what_its_definition_says(algorithm: str, tmp_path: Path) -> None:
    drawn = np.random.default_rng(1).normal(0, 0.1, (32, 64)).astype(np.float32)
    weight = torch.from_numpy(drawn).bfloat16().float().numpy()
    parts = modelopt_parts(weight, algorithm)
    whole = float(parts.get("weight_scale_2", torch.tensor(1.0)))
    if algorithm == "FP8":
        plain = parts["weight"].float() * parts["weight_scale"]
    else:
        plain = torch.zeros(32, 64)
        for row in range(32):
            for column in range(64):
                code = int(parts["weight"][row, column // 2]) >> (4 * (column % 2)) & 15
                value = FP4_VALUES[code % 8] * (-1 if code > 7 else 1)
                plain[row, column] = value * float(parts["weight_scale"][row, column // 16].float()) * whole
    reader = release(tmp_path, {MLP: torch.from_numpy(weight)}, {"layers": algorithm})[1]
    torch.testing.assert_close(reader.weight(MLP, 32, 64), plain)
    assert np.abs(plain.numpy() - weight).max() < (0.06 if algorithm == "NVFP4" else 0.02)
    scale = reader.input_scales(MLP)
    assert float(scale["input_scale"] if algorithm == "FP8" else 8 * scale["input_global_scale"] / 448 / 6) == (
        pytest.approx(8 / 448 if algorithm == "FP8" else 1)
    )


def release(
    place: Path, matrices: "dict[str, torch.Tensor]", algorithms: dict[str, str], **more: Any
) -> tuple[Reader, Reader]:
    from safetensors.torch import save_file

    source, target = place / "source", place / "release"
    source.mkdir()
    tensors = {f"{name}.weight": matrix.bfloat16() for name, matrix in matrices.items()}
    norms = ("input_layernorm", "post_attention_layernorm")
    tensors |= {f"model.layers.0.{norm}.weight": torch.ones(64).bfloat16() for norm in norms}
    save_file({**tensors, "model.embed_tokens.weight": torch.ones(16, 64).bfloat16()}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"tie_word_embeddings": True, "num_key_value_heads": 2}))
    write_modelopt(source, target, algorithms, **more)
    return Reader(source), Reader(target)


def matrices() -> "dict[str, torch.Tensor]":
    make = torch.Generator().manual_seed(2)
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    return {f"model.layers.0.{name}": torch.randn(64, 64, generator=make) * 0.1 for name in names}


@pytest.mark.parametrize("in_config", [True, False])
@pytest.mark.parametrize("algorithm", ["FP8", "NVFP4"])
def test_a_release_of_modelopt_is_proven(algorithm: str, in_config: bool, tmp_path: Path) -> None:
    source, written = release(tmp_path, matrices(), {"layers": algorithm}, in_config=in_config)
    expected = expected_of_release(written, WANTED[algorithm], "fp8" if algorithm == "FP8" else "fp4")
    bits = prove(source, written, expected)
    assert bits is not None
    assert bits == pytest.approx(8 if algorithm == "FP8" else 4.5, abs=0.1)
    prove_weights(source, written, expected)
    other = WANTED["NVFP4" if algorithm == "FP8" else "FP8"]
    with pytest.raises(CheckpointError, match="not of the requested kind"):
        expected_of_release(written, other, "fp8")


def test_a_mixed_release_is_proven_layer_by_layer(tmp_path: Path) -> None:
    source, written = release(tmp_path, matrices(), {"mlp": "NVFP4", "q_proj": "FP8"})
    for wanted in WANTED.values():
        expected = expected_of_release(written, wanted, "fp8")
        bits = prove(source, written, expected)
        assert bits is not None
        assert 4.5 < bits < 8
        assert str(expected).count(" and ") == 1
        prove_weights(source, written, expected)
    damaged = {name: matrix * (1.5 if name == MLP else 1) for name, matrix in matrices().items()}
    (tmp_path / "other").mkdir()
    other, _ = release(tmp_path / "other", damaged, {"mlp": "NVFP4"})
    with pytest.raises(CheckpointError, match=f"the weights of {MLP} are not those"):
        prove_weights(other, written, expected)


def test_scales_of_the_cache_have_to_be_declared_positive_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source, written = release(tmp_path, matrices(), {"layers": "FP8"})
    expected = expected_of_release(written, WANTED["FP8"], "fp8")
    prove(source, written, expected)
    file = written.folder / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "model.layers.0.self_attn.k_proj.k_scale": torch.tensor(0.0)}, file)
    with pytest.raises(CheckpointError, match="k_scale is not one positive number"):
        prove(source, Reader(written.folder), expected)
    save_file(tensors, file)
    config = json.loads((written.folder / "config.json").read_text())
    config["quantization_config"]["kv_cache_quant_algo"] = None
    (written.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="its configuration has no KV-cache scheme"):
        prove(source, Reader(written.folder), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo 'W4A8_AWQ' is not supported"),
        ({"quant_method": "modelopt"}, "not understood"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "not understood"),
        ({**MIXED, "config_groups": {"g": {"targets": ["Linear"], "weights": None}}}, "without weights"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        scheme_of(config)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_our_own_may_not_be_mixed(tmp_path: Path) -> None:
    source, written = release(tmp_path, matrices(), {"mlp": "NVFP4", "q_proj": "FP8"})
    for wanted in (*WANTED.values(), Expected(format=integers(4, 32, symmetric=True))):
        with pytest.raises(CheckpointError, match="but the scheme is"):
            prove(source, written, wanted)
