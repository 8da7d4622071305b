"""A checkpoint that does not match its scheme is rejected, whatever its config file claims."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantize.checkpoint import CheckpointError, Speech
from quantize.formats import integers
from quantize.method import Expected
from quantize.proof import expected_of_release, linear_layers, prove
from quantize.reader import Reader
from quantize.scheme import scheme_of

torch = pytest.importorskip("torch")

QUANTIZED = "model.layers.0.self_attn.q_proj"
EXPECTED = Expected(
    format=integers(4, 32, symmetric=True), ignore=("lm_head", "re:.*mlp.gate$"), max_kl_nats=1.0, moves_scales=False
)
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}
Tensors = dict[str, "torch.Tensor"]


def source_tensors() -> Tensors:
    make = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed_tokens.weight": (16, 64),
        f"{QUANTIZED}.weight": (8, 64),
        "model.layers.0.mlp.gate.weight": (4, 64),
        "model.norm.weight": (64,),
        "lm_head.weight": (16, 64),
    }
    return {name: torch.randn(shape, generator=make).bfloat16() for name, shape in shapes.items()}


def written_tensors() -> Tensors:
    tensors = {name: tensor for name, tensor in source_tensors().items() if QUANTIZED not in name}
    packed = {
        "weight_packed": torch.zeros(8, 8, dtype=torch.int32),
        "weight_scale": torch.ones(8, 2, dtype=torch.bfloat16),
        "weight_shape": torch.tensor([8, 64]),
    }
    return tensors | {f"{QUANTIZED}.{part}": tensor for part, tensor in packed.items()}


def folder(path: Path, tensors: Tensors, quantization: dict[str, Any] | None) -> Reader:
    from safetensors.torch import save_file

    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    config = {"model_type": "qwen3", **({"quantization_config": quantization} if quantization else {})}
    (path / "config.json").write_text(json.dumps(config))
    return Reader(path)


@pytest.fixture
def source(tmp_path: Path) -> Reader:
    return folder(tmp_path / "source", source_tensors(), None)


def test_a_sound_checkpoint_is_proven_and_its_bits_counted(source: Reader, tmp_path: Path) -> None:
    written = folder(tmp_path / "written", written_tensors(), CONFIG)
    shape_bytes = 2 * 8  # the pair of sizes that the container stores for each layer
    assert prove(source, written, EXPECTED) == 4 + 16 / 32 + 8 * shape_bytes / (8 * 64)
    assert linear_layers(source.facts.values(), EXPECTED.ignore) == {QUANTIZED: (8, 64)}


def changed(name: str, change: Callable[["torch.Tensor"], "torch.Tensor"]) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[name] = change(tensors[name])

    return apply


def left_in_16_bits(tensors: Tensors) -> None:
    for part in ("weight_packed", "weight_scale", "weight_shape"):
        del tensors[f"{QUANTIZED}.{part}"]
    tensors[f"{QUANTIZED}.weight"] = source_tensors()[f"{QUANTIZED}.weight"]


def embedding_quantized(tensors: Tensors) -> None:
    del tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight_packed"] = torch.zeros(16, 8, dtype=torch.int32)


DAMAGE: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "left in 16 bits": (left_in_16_bits, r"q_proj should be stored as int4.* is left in 16 bits \(BF16\)"),
    "missing layer": (lambda t: [t.pop(n) for n in list(t) if QUANTIZED in n], "q_proj .* is missing"),
    "missing scales": (lambda t: t.pop(f"{QUANTIZED}.weight_scale"), "has no weight_scale"),
    "wrong shape": (changed(f"{QUANTIZED}.weight_scale", lambda x: x[:, :1].clone()), r"weight_scale is BF16 \(8, 1\)"),
    "wrong dtype": (changed(f"{QUANTIZED}.weight_packed", lambda x: x.to(torch.uint8)), "weight_packed is U8"),
    "unknown part": (
        lambda t: t.setdefault(f"{QUANTIZED}.weight_g_idx", torch.zeros(64, dtype=torch.int32)),
        "tensor weight_g_idx, which is not part of int4",
    ),
    "scale not finite": (changed(f"{QUANTIZED}.weight_scale", lambda x: x / 0), "has 16 scales that are not finite"),
    "embedding changed": (changed("model.embed_tokens.weight", lambda x: x + 1), "embed_tokens.weight was changed"),
    "embedding quantized": (embedding_quantized, "embed_tokens is quantized, but the scheme leaves"),
    "output layer changed": (changed("lm_head.weight", lambda x: -x), "lm_head.weight was changed"),
    "router changed": (changed("model.layers.0.mlp.gate.weight", lambda x: x * 2), "gate.weight was changed"),
    "norm missing": (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
    "norm in 8 bits": (changed("model.norm.weight", lambda x: x.to(torch.int8)), "norm.weight was BF16 .* is I8"),
    "something else": (lambda t: t.setdefault("model.extra.weight", torch.zeros(2)), "extra.weight is in the written"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(case: str, source: Reader, tmp_path: Path) -> None:
    damage, message = DAMAGE[case]
    tensors = written_tensors()
    damage(tensors)
    with pytest.raises(CheckpointError, match=message):
        prove(source, folder(tmp_path / "written", tensors, CONFIG), EXPECTED)


def test_a_config_that_says_something_else_is_refused(source: Reader, tmp_path: Path) -> None:
    lying = json.loads(json.dumps(CONFIG))
    lying["config_groups"]["group_0"]["weights"]["group_size"] = 64
    with pytest.raises(CheckpointError, match=r"scales per 64 columns.*but the scheme is int4, scales per 32"):
        prove(source, folder(tmp_path / "lying", written_tensors(), lying), EXPECTED)
    with pytest.raises(CheckpointError, match="no quantization_config"):
        prove(source, folder(tmp_path / "silent", written_tensors(), None), EXPECTED)


def test_a_router_may_take_up_scales_where_the_method_moves_them(source: Reader, tmp_path: Path) -> None:
    tensors = written_tensors()
    tensors["model.layers.0.mlp.gate.weight"] *= 2
    moving = EXPECTED.model_copy(update={"moves_scales": True})
    assert prove(source, folder(tmp_path / "written", tensors, CONFIG), moving)


def test_16_bits_are_16_bits(source: Reader, tmp_path: Path) -> None:
    plain = Expected(format=None)
    assert prove(source, source, plain) is None
    with pytest.raises(CheckpointError, match="not a 16-bit checkpoint"):
        prove(source, folder(tmp_path / "written", written_tensors(), CONFIG), plain)


@pytest.mark.parametrize(
    ("original", "copy", "same"),
    [
        (1.0, 1 + 2**-7, True),
        (1.0, 1 + 2**-6, False),
        (-1.0, 1.0, False),
        (0.0, 9e-7, True),
        (0.0, 1.1e-6, False),
    ],
)
def test_between_float16_and_bfloat16_an_embedding_may_differ_by_rounding(
    original: float, copy: float, same: bool, tmp_path: Path
) -> None:
    name = "model.embed_tokens.weight"
    source = folder(tmp_path / "source", source_tensors() | {name: torch.full((16, 64), original).half()}, None)
    written = folder(tmp_path / "written", written_tensors() | {name: torch.full((16, 64), copy).bfloat16()}, CONFIG)
    if same:
        assert prove(source, written, EXPECTED)
    else:
        with pytest.raises(CheckpointError, match=r"embed_tokens\.weight was changed"):
            prove(source, written, EXPECTED)


def test_a_scale_of_mxfp4_is_a_power_of_two_and_not_nan(source: Reader, tmp_path: Path) -> None:
    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True}
    config = {**CONFIG, "format": "mxfp4-pack-quantized", "config_groups": {"group_0": {"weights": weights}}}
    tensors = {name: tensor for name, tensor in written_tensors().items() if QUANTIZED not in name}
    tensors |= {
        f"{QUANTIZED}.weight_packed": torch.zeros(8, 32, dtype=torch.uint8),
        f"{QUANTIZED}.weight_scale": torch.full((8, 2), 254, dtype=torch.uint8),
    }
    expected = EXPECTED.model_copy(update={"format": scheme_of(config).form})
    assert prove(source, folder(tmp_path / "sound", tensors, config), expected) == 4 + 8 / 32
    tensors[f"{QUANTIZED}.weight_scale"][3, 1] = 255
    with pytest.raises(CheckpointError, match="weight_scale has 1 scales that are not finite numbers"):
        prove(source, folder(tmp_path / "damaged", tensors, config), expected)


def test_a_release_is_checked_against_its_config_and_the_requested_kind(source: Reader, tmp_path: Path) -> None:
    tensors = written_tensors()
    written = folder(tmp_path / "written", tensors, {**CONFIG, "ignore": ["lm_head", "mlp.gate"]})
    other = EXPECTED.model_copy(update={"format": integers(4, 128, symmetric=False)})
    expected = expected_of_release(written, other, "rtn")
    assert str(expected.format) == str(EXPECTED.format)
    assert prove(source, written, expected)
    with pytest.raises(CheckpointError, match="not of the requested kind: int8"):
        expected_of_release(written, EXPECTED.model_copy(update={"format": integers(8, 32, symmetric=True)}), "rtn")
    with pytest.raises(CheckpointError, match="not a quantized release"):
        expected_of_release(source, EXPECTED, "rtn")


def test_layers_that_a_release_names_by_a_part_or_an_expression_stay_in_16_bits(source: Reader, tmp_path: Path) -> None:
    quantization = {**CONFIG, "ignore": ["lm_head", "mlp.gate", "re:.*norm$"]}
    expected = expected_of_release(folder(tmp_path / "written", written_tensors(), quantization), EXPECTED, "rtn")
    named = {"lm_head", "model.layers.0.mlp.gate", "model.norm"}
    assert set(expected.ignore) == {*EXPECTED.ignore, *named}


def test_a_tensor_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder(tmp_path / "twice", source_tensors(), None)
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "twice" / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is in model\.safetensors and again in other"):
        Reader(tmp_path / "twice")


def test_degenerate_text_is_distinguished_from_worse_text() -> None:
    from quantize.canaries import degenerate, speech

    sound = speech([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1]], [2.0, 2.5])
    assert sound == Speech(repetition=0.0, entropy_nats=2.25)
    stuck = speech([[7] * 24], [2.0])
    assert stuck.repetition == pytest.approx(22 / 23)
    assert degenerate(sound, speech([[1, 2, 1, 2, 5]], [1.5])) is None
    assert "repeats itself" in str(degenerate(sound, stuck))
    assert "certain of everything" in str(degenerate(sound, speech([[1, 2, 3]], [0.1])))
    assert "knows nothing" in str(degenerate(sound, speech([[1, 2, 3]], [10.0])))
    assert degenerate(stuck, stuck) is None


def gptq_folder(path: Path, *, shuffle: bool = False, zero_shift: int = 0) -> Reader:
    import numpy as np

    from tests.support.native import gptq_parts

    parts = gptq_parts(np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32), 4, 32, shuffle=shuffle)
    parts["qzeros"] = parts["qzeros"] + zero_shift
    tensors = {name: tensor for name, tensor in written_tensors().items() if QUANTIZED not in name}
    tensors |= {f"{QUANTIZED}.{part}": torch.from_numpy(value.copy()) for part, value in parts.items()}
    return folder(path, tensors, {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False})


def test_what_fast_gptq_kernels_do_not_read_must_be_what_they_assume(source: Reader, tmp_path: Path) -> None:
    expected = EXPECTED.model_copy(update={"format": integers(4, 32, symmetric=True, container="gptq")})
    sound = gptq_folder(tmp_path / "of another method")
    with pytest.raises(CheckpointError, match="not of the requested kind"):
        expected_of_release(sound, expected, "awq")
    assert prove(source, gptq_folder(tmp_path / "sound"), expected)
    with pytest.raises(CheckpointError, match="g_idx is not in order"):
        prove(source, gptq_folder(tmp_path / "shuffled", shuffle=True), expected)
    with pytest.raises(CheckpointError, match="qzeros is not the middle"):
        prove(source, gptq_folder(tmp_path / "shifted", zero_shift=1), expected)


def test_a_table_shared_with_the_output_may_be_stored_once_or_twice(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = source_tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tied = folder(tmp_path / "tied", tensors, None)
    tied.config["tie_word_embeddings"] = True
    written = written_tensors()
    del written["lm_head.weight"]
    (tmp_path / "once").mkdir()
    save_file(written, tmp_path / "once" / "model.safetensors")
    (tmp_path / "once" / "config.json").write_text(json.dumps({"quantization_config": CONFIG}))
    assert prove(tied, Reader(tmp_path / "once"), EXPECTED)


def test_the_config_must_name_unquantized_layers(source: Reader, tmp_path: Path) -> None:
    tensors = written_tensors()
    left_in_16_bits(tensors)
    forgiving = EXPECTED.model_copy(update={"ignore": (*EXPECTED.ignore, "re:.*q_proj$", QUANTIZED)})
    other = f"{QUANTIZED.replace('q_proj', 'k_proj')}"
    tensors |= {f"{other}.{part}": tensor for part, tensor in (
        ("weight_packed", torch.zeros(8, 8, dtype=torch.int32)),
        ("weight_scale", torch.ones(8, 2, dtype=torch.bfloat16)),
        ("weight_shape", torch.tensor([8, 64])),
    )}  # fmt: skip
    wider = folder(tmp_path / "wider", source_tensors() | {f"{other}.weight": torch.zeros(8, 64).bfloat16()}, None)
    with pytest.raises(
        CheckpointError, match=r"q_proj is in 16 bits, but config\.json does not list it as unquantized"
    ):
        prove(wider, folder(tmp_path / "silent", tensors, CONFIG), forgiving)
    naming = {**CONFIG, "ignore": ["lm_head", QUANTIZED]}
    assert prove(wider, folder(tmp_path / "naming", tensors, naming), forgiving)
