"""Weights are compared with their source's, whatever factors a method moved between layers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from quantize.checkpoint import CheckpointError  # noqa: E402
from quantize.formats import Format, step_sizes  # noqa: E402
from quantize.method import Expected  # noqa: E402
from quantize.proof import linear_layers  # noqa: E402
from quantize.reader import Reader  # noqa: E402
from quantize.weights import Factors, prove_weights, weight_errors  # noqa: E402

HIDDEN, INNER, HEADS, KV_HEADS, HEAD = 32, 48, 4, 2, 8
INT8 = Format(
    container="compressed-tensors", type="int", bits=8, rows_per_scale=1, columns_per_scale=None, packed=False
)
CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}}},
}
BLOCK = "model.layers.0"
ATTENTION, MLP = f"{BLOCK}.self_attn", f"{BLOCK}.mlp"
NORMS = (f"{BLOCK}.input_layernorm.weight", f"{BLOCK}.post_attention_layernorm.weight")
Tensors = dict[str, "torch.Tensor"]


def model() -> Tensors:
    """Return a decoder layer with biases, a router, embeddings and norms, as float64 values that BF16 can hold."""
    make = torch.Generator().manual_seed(3)
    shapes = {
        "model.embed_tokens.weight": (40, HIDDEN),
        f"{ATTENTION}.q_proj.weight": (HEADS * HEAD, HIDDEN),
        f"{ATTENTION}.k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        f"{ATTENTION}.v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        f"{ATTENTION}.v_proj.bias": (KV_HEADS * HEAD,),
        f"{ATTENTION}.o_proj.weight": (HIDDEN, HEADS * HEAD),
        f"{MLP}.gate.weight": (4, HIDDEN),
        f"{MLP}.gate_proj.weight": (INNER, HIDDEN),
        f"{MLP}.up_proj.weight": (INNER, HIDDEN),
        f"{MLP}.down_proj.weight": (HIDDEN, INNER),
        "model.norm.weight": (HIDDEN,),
    }
    tensors = {name: torch.randn(shape, generator=make) for name, shape in shapes.items()}
    tensors |= {name: 1 + 0.2 * torch.randn(HIDDEN, generator=make) for name in NORMS}
    return {name: tensor.bfloat16() for name, tensor in tensors.items()}


def folder(path: Path, tensors: Tensors, *, quantized: bool) -> Reader:
    """Write a checkpoint; a quantized one has its matrices rounded to 8 bits per row."""
    stored: Tensors = {}
    for name, tensor in tensors.items():
        if quantized and name.endswith("_proj.weight"):
            scale = (tensor.float().abs().amax(1, keepdim=True) / 127).bfloat16()
            stored[name] = (tensor.float() / scale.float()).nan_to_num().round().clamp(-128, 127).to(torch.int8)
            stored[f"{name}_scale"] = scale
        else:
            stored[name] = tensor.bfloat16()
    path.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, path / "model.safetensors")
    config = {"num_key_value_heads": KV_HEADS, **({"quantization_config": CONFIG} if quantized else {})}
    (path / "config.json").write_text(json.dumps(config))
    return Reader(path)


def factors_of(width: int) -> "torch.Tensor":
    return torch.logspace(-0.5, 0.5, width)


def moved(tensors: Tensors) -> Tensors:
    """Move factors from both norms, from values to the output of attention, and from up to down."""
    moved = {name: tensor.float() for name, tensor in tensors.items()}
    for norm, readers in (
        (NORMS[0], [f"{ATTENTION}.{name}_proj" for name in "qkv"]),
        (NORMS[1], [f"{MLP}.gate", f"{MLP}.gate_proj", f"{MLP}.up_proj"]),
    ):
        factors = factors_of(HIDDEN)
        moved[norm] /= factors
        for reader in readers:
            moved[f"{reader}.weight"] *= factors
    values = factors_of(KV_HEADS * HEAD)
    moved[f"{ATTENTION}.v_proj.weight"] /= values[:, None]
    moved[f"{ATTENTION}.v_proj.bias"] /= values
    # Heads 0 and 1 read the first head of values, heads 2 and 3 the second.
    per_head = [values[HEAD * (head // (HEADS // KV_HEADS)) :][:HEAD] for head in range(HEADS)]
    moved[f"{ATTENTION}.o_proj.weight"] *= torch.cat(per_head)
    moved[f"{MLP}.up_proj.weight"] /= factors_of(INNER)[:, None]
    moved[f"{MLP}.down_proj.weight"] *= factors_of(INNER)
    return moved


EXPECTED = Expected(format=INT8, ignore=("lm_head", "re:.*mlp.gate$"), moves_scales=True)
PLAIN = EXPECTED.model_copy(update={"moves_scales": False, "nearest": True})


@pytest.fixture
def source(tmp_path: Path) -> Reader:
    return folder(tmp_path / "source", model(), quantized=False)


def test_a_rounded_checkpoint_and_one_with_moved_factors_are_proven(source: Reader, tmp_path: Path) -> None:
    assert prove_weights(source, folder(tmp_path / "plain", model(), quantized=True), PLAIN) == ()
    scaled = folder(tmp_path / "moved", moved(model()), quantized=True)
    assert prove_weights(source, scaled, EXPECTED) == ()
    with pytest.raises(CheckpointError, match=r"input_layernorm.weight was changed"):
        prove_weights(source, scaled, PLAIN)


@pytest.mark.parametrize(
    "name", [name for name in moved(model()) if not torch.equal(moved(model())[name], model()[name].float())]
)
def test_a_factor_that_is_missing_in_one_place_is_found(name: str, source: Reader, tmp_path: Path) -> None:
    tensors = moved(model())
    tensors[name] = model()[name]
    with pytest.raises(CheckpointError):
        prove_weights(source, folder(tmp_path / "written", tensors, quantized=True), EXPECTED)


def test_figures_are_those_of_their_definitions(source: Reader, tmp_path: Path) -> None:
    written = folder(tmp_path / "plain", model(), quantized=True)
    layers = linear_layers(source.facts.values(), EXPECTED.ignore)
    errors = {error.name: error for error in weight_errors(source, written, layers, None)}
    assert len(errors) == 7
    layer = f"{MLP}.down_proj"
    before = [[float(value) for value in row] for row in source.tensor(f"{layer}.weight")]
    codes, scales = (
        written.tensor(f"{layer}.weight").tolist(),
        written.tensor(f"{layer}.weight_scale").flatten().tolist(),
    )
    difference = [
        [code * scale - value for code, value in zip(row, own, strict=True)]
        for row, own, scale in zip(codes, before, scales, strict=True)
    ]
    square = sum(value * value for row in before for value in row)
    error = errors[layer]
    assert error.relative_error == pytest.approx((sum(d * d for row in difference for d in row) / square) ** 0.5)
    assert error.rounding_error == pytest.approx((INNER * sum(s * s for s in scales) / 12 / square) ** 0.5)
    assert error.largest_steps == pytest.approx(
        max(abs(d) / s for row, s in zip(difference, scales, strict=True) for d in row)
    )
    means = [sum(row) / INNER / s for row, s in zip(difference, scales, strict=True)]
    assert error.offset_steps == pytest.approx((sum(mean * mean for mean in means) / len(means)) ** 0.5, rel=1e-3)
    rows = [sum(value * value for value in row) for row in before]
    slopes = [
        1 + sum(d * value for d, value in zip(own, row, strict=True)) / sum(value * value for value in row)
        for own, row in zip(difference, before, strict=True)
    ]
    expected = sum(energy * (slope - 1) ** 2 for energy, slope in zip(rows, slopes, strict=True)) / sum(rows)
    assert error.scale_error == pytest.approx(expected**0.5, rel=1e-3)
    columns = [list(column) for column in zip(*before, strict=True)]
    moves = [
        sum(d * v for d, v in zip(own, column, strict=True))
        for own, column in zip(zip(*difference, strict=True), columns, strict=True)
    ]
    energies = [sum(value * value for value in column) for column in columns]
    expected = sum(move * move / energy for move, energy in zip(moves, energies, strict=True)) / sum(energies)
    assert error.column_error == pytest.approx(expected**0.5, rel=1e-3)


FP8 = Format(
    container="compressed-tensors", type="float", bits=8, rows_per_scale=1, columns_per_scale=None, packed=False
)
FP4 = Format(
    container="compressed-tensors",
    type="float",
    bits=4,
    rows_per_scale=1,
    columns_per_scale=None,
    packed=True,
    scale="e8m0",
)


def neighbours(values: list[float], at: float) -> float:
    """Return the distance to the next larger value of a format."""
    return min(value for value in values if value > at) - at


def test_steps_are_the_distances_of_a_formats_values() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    eights = sorted({float(value) for value in codes if torch.isfinite(value) and value >= 0})
    steps = step_sizes(FP8, {"weight_scale": torch.tensor([[1.0]])}, torch.tensor([eights[:-1]]))
    assert steps[0].tolist() == [neighbours(eights, value) for value in eights[:-1]]
    fours = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]  # OCP Microscaling Formats 1.0, table 5
    steps = step_sizes(FP4, {"weight_scale": torch.tensor([[128]], dtype=torch.uint8)}, 2 * torch.tensor([fours[:-1]]))
    assert steps[0].tolist() == [2 * neighbours(fours, value) for value in fours[:-1]]


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        tensors[name][place] = value

    return apply


def swap_rows(tensors: Tensors) -> None:
    up = tensors[f"{MLP}.up_proj.weight"]
    up[:2] = up[:2].flip(0)


def add_bias(tensors: Tensors) -> None:
    tensors[f"{MLP}.down_proj.bias"] = torch.ones(HIDDEN)


CHANGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "one number of an embedding": (put("model.embed_tokens.weight", (7, 3), 9.0), "embed_tokens.weight was changed"),
    "one number of the last norm": (put("model.norm.weight", (5,), 0.0), "model.norm.weight was changed"),
    "a bias": (put(f"{ATTENTION}.v_proj.bias", (2,), 4.0), "v_proj.bias was changed"),
    "a router": (lambda tensors: tensors[f"{MLP}.gate.weight"].mul_(2), "mlp.gate.weight was changed"),
    "a bias that the source lacks": (add_bias, "not in its source"),
    "a norm that is zero": (put(NORMS[0], (1,), 0.0), "factors of zero"),
    "a norm that is not finite": (put(NORMS[1], (1,), float("inf")), "not finite"),
    "a negated row": (lambda tensors: tensors[f"{MLP}.gate_proj.weight"][5].neg_(), "gate_proj are not those"),
    "one weight": (put(f"{ATTENTION}.q_proj.weight", (5, 5), 3.0), "q_proj are not those"),
    "a row that feeds another layer": (put(f"{MLP}.up_proj.weight", (5,), 0.0), "proj are not those"),
    "two rows of another layer": (swap_rows, "proj are not those"),
}


def test_rows_and_matrices_that_are_zero_in_the_source_may_be_zero(tmp_path: Path) -> None:
    tensors = model()
    tensors[f"{MLP}.gate_proj.weight"].zero_()
    tensors[f"{MLP}.up_proj.weight"][3] = 0
    source = folder(tmp_path / "source", tensors, quantized=False)
    with_zero_scales = {name: tensor.float() for name, tensor in tensors.items()}
    written = folder(tmp_path / "written", with_zero_scales, quantized=True)
    assert float(written.tensor(f"{MLP}.gate_proj.weight_scale").abs().max()) == 0
    assert prove_weights(source, written, PLAIN) == ()
    assert prove_weights(source, written, EXPECTED) == ()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("moves", [False, True])
def test_what_was_changed_is_named(change: str, moves: bool, source: Reader, tmp_path: Path) -> None:
    apply, message = CHANGES[change]
    if moves and change == "one weight":
        pytest.skip("GPTQ moves single weights far")
    if not moves and "norm that" in change:
        message = "norm.weight (was changed|has numbers)"
    tensors = {name: tensor.float() for name, tensor in (moved(model()) if moves else model()).items()}
    apply(tensors)
    with pytest.raises(CheckpointError, match=message):
        prove_weights(source, folder(tmp_path / "written", tensors, quantized=True), EXPECTED if moves else PLAIN)


def test_a_suspicious_scale_is_noted(source: Reader, tmp_path: Path) -> None:
    written = folder(tmp_path / "written", model(), quantized=True)
    tensors = {name: written.tensor(name) for name in written.facts}
    tensors[f"{MLP}.gate_proj.weight_scale"] *= 1.1
    save_file(tensors, written.folder / "model.safetensors")
    calibrated = PLAIN.model_copy(update={"nearest": False})
    layers = linear_layers(source.facts.values(), EXPECTED.ignore)
    by_layer = {error.name: error for error in weight_errors(source, Reader(written.folder), layers, None)}
    assert by_layer[f"{MLP}.gate_proj"].scale_error == pytest.approx(0.1, abs=0.01)
    with pytest.raises(CheckpointError, match="gate_proj are not those"):
        prove_weights(source, Reader(written.folder), calibrated)


def test_a_layer_without_anything_to_move_has_no_factors(source: Reader, tmp_path: Path) -> None:
    written = folder(tmp_path / "plain", model(), quantized=True)
    factors = Factors(source, written)
    assert factors.of("lm_head").item() == 1
    assert torch.equal(factors.of(f"{ATTENTION}.q_proj"), torch.ones(HIDDEN))
