"""Every container is read as specified: compared with plain encoders and with the library that writes it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.checkpoint import CheckpointError
from quantize.formats import Activations, Format, dequantize, integers, round_inputs
from tests.support.native import awq_parts, gptq_parts, rounded

torch = pytest.importorskip("torch")

from quantize.scheme import scheme_of  # noqa: E402

SEEDS = st.integers(0, 2**31)


def form_of(config: dict[str, Any]) -> Format:
    return scheme_of(config).form


def weights(seed: int, rows: int, columns: int) -> "np.ndarray":
    return np.random.default_rng(seed).normal(0, 0.1, (rows, columns)).astype(np.float32)


def as_tensors(parts: dict[str, "np.ndarray"]) -> dict[str, "torch.Tensor"]:
    return {name: torch.from_numpy(value.copy()) for name, value in parts.items()}


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from([4, 8]), st.sampled_from([32, 64]), st.booleans())
def test_gptq_reads_back_what_a_plain_encoder_wrote(seed: int, bits: int, group: int, shuffle: bool) -> None:
    weight = weights(seed, 16, 64)
    form = integers(bits, group, symmetric=True, container="gptq").model_copy(update={"act_order": shuffle})
    parts = gptq_parts(weight, bits, group, shuffle=shuffle)
    expanded = dequantize(form, as_tensors(parts), 16, 64).numpy()
    step = parts["scales"].astype(np.float32)[parts["g_idx"]].T
    assert (np.abs(expanded - weight) <= step * 0.51 + 1e-6).all()
    for part, stored in form.stored(16, 64).items():
        assert parts[part].shape == stored.shape


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from([32, 64]))
def test_awq_reads_back_what_a_plain_encoder_wrote(seed: int, group: int) -> None:
    weight = weights(seed, 16, 64)
    form = integers(4, group, symmetric=False, container="awq")
    parts = awq_parts(weight, group)
    codes, zeros, scales = rounded(weight, 4, group, symmetric=False)
    exact = (codes - zeros.T.repeat(group, 1)) * scales.T.repeat(group, 1)
    np.testing.assert_allclose(dequantize(form, as_tensors(parts), 16, 64).numpy(), exact, rtol=1e-6)
    for part, stored in form.stored(16, 64).items():
        assert parts[part].shape == stored.shape


FP4 = {
    "nvfp4": Activations(type="float", num_bits=4, strategy="tensor_group", dynamic="local", group_size=16),
    "mxfp4": Activations(type="float", num_bits=4, strategy="group", dynamic=True, group_size=32),
}


def library_compressed(scheme: str, weight: "torch.Tensor") -> tuple[dict[str, "torch.Tensor"], Format, "torch.Tensor"]:
    """Return (stored tensors, format, expanded weight), all from compressed-tensors and llm-compressor."""
    from compressed_tensors.compressors import compress_module, decompress_module
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
    from llmcompressor.entrypoints.model_free.lifecycle import calibrate_weight, initialize_quantized_linear

    own = {"int4-asym": (4, False), "int4": (4, True), "int8": (8, True)}
    if scheme in own:
        bits, symmetric = own[scheme]
        args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy="group", group_size=32)
        library_scheme = QuantizationScheme(targets=["Linear"], weights=args)
    else:
        library_scheme = preset_name_to_scheme(scheme, ["Linear"])
    library_scheme.weights.observer = "static_minmax"
    module = initialize_quantized_linear(weight, library_scheme, "cpu")
    if scheme.startswith("NVFP4"):
        from compressed_tensors.quantization.utils import generate_gparam

        module.weight_global_scale.data = generate_gparam(weight.min()[None], weight.max()[None])
    calibrate_weight(module)
    compress_module(module)
    stored = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    form = form_of(
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": library_scheme.model_dump(mode="json")},
            "format": library_scheme.format,
        }
    )
    decompress_module(module)
    return stored, form, module.weight.detach().float()


@pytest.mark.parametrize(
    "scheme", ["int4-asym", "int4", "int8", "FP8_DYNAMIC", "FP8_BLOCK", "INT8", "MXFP4", "NVFP4A16"]
)
def test_compressed_tensors_are_expanded_as_their_own_library_does(scheme: str) -> None:
    pytest.importorskip("llmcompressor")
    weight = torch.from_numpy(weights(7, 128, 256)).bfloat16()
    stored, form, theirs = library_compressed(scheme, weight)
    expanded = dequantize(form, stored, 128, 256).bfloat16().float()
    assert torch.equal(expanded, theirs)
    expected = form.stored(128, 256)
    for part, needed in expected.items():
        if not part.startswith("input"):
            assert tuple(stored[part].shape) == needed.shape
    assert {part for part in stored if not part.startswith("input")} <= set(expected)


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(["int8-token", "fp8-token", "fp8-group", "nvfp4", "mxfp4"]), st.integers(1, 5))
def test_rounded_inputs_stay_near_and_do_not_depend_on_their_neighbours(seed: int, kind: str, tokens: int) -> None:
    activations = {
        "int8-token": Activations(type="int", num_bits=8, strategy="token", dynamic=True),
        "fp8-token": Activations(type="float", num_bits=8, strategy="token", dynamic=True),
        "fp8-group": Activations(type="float", num_bits=8, strategy="group", dynamic=True, group_size=64),
        **FP4,
    }[kind]
    form = Format(
        container="compressed-tensors", type="float", bits=4, rows_per_scale=1, columns_per_scale=16,
        scale={"nvfp4": "e4m3", "mxfp4": "e8m0"}.get(kind, "float"), packed=True, activations=activations,
    )  # fmt: skip
    shared = {"input_global_scale": torch.tensor([448 * 6 / 0.5])} if kind == "nvfp4" else {}
    inputs = torch.from_numpy(weights(seed, tokens, 128))
    results = round_inputs(form, shared, inputs)
    relative = float((results - inputs).norm() / inputs.norm())
    assert 0 < relative < (0.25 if "fp4" in kind else 0.05)
    alone = torch.cat([round_inputs(form, shared, row[None]) for row in inputs])
    assert torch.equal(results, alone)
    assert torch.equal(round_inputs(form, shared, inputs[None]), results[None])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        ({"quant_method": "awq", "version": "gemv", "bits": 4, "group_size": 128}, "'awq'"),
        ({"quant_method": "fp8"}, "'fp8'"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "must have a config group to be read"),
    ],
)
def test_an_unknown_container_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        scheme_of(config)


def test_configs_of_published_releases_are_understood() -> None:
    """Uses the configs of Qwen's releases of Qwen3."""
    fp8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    form = form_of({**fp8, "modules_to_not_convert": ["lm_head"]})
    assert (
        str(form) == "float8, scales per block of 128 x 128, symmetric, container fp8; activations float8 at run time"
    )
    assert form.stored(1024, 4096)["weight_scale_inv"].shape == (8, 32)
    gptq = {"quant_method": "gptq", "bits": 8, "group_size": 128, "sym": True, "desc_act": False}
    assert str(form_of(gptq)) == "int8, scales per 128 columns, symmetric, container gptq"
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
    assert str(form_of(awq)) == "int4, scales per 128 columns, asymmetric, container awq"


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_group_size_of_minus_one_is_a_scale_per_channel(method: str) -> None:
    config = {"quant_method": method, "bits": 4, "group_size": -1, "sym": True, "zero_point": False}
    form = form_of(config)
    assert str(form) == f"int4, scales per channel, symmetric, container {method}"
    assert form.stored(16, 64)["scales"].shape == (1, 16)


def test_a_scale_per_tensor_is_one_number_for_all_weights() -> None:
    weights = {"type": "float", "num_bits": 8, "strategy": "tensor", "symmetric": True}
    config = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"weights": weights, "input_activations": {**weights, "dynamic": False}}},
    }
    form = form_of(config)
    assert str(form) == ("float8, scales per tensor, symmetric, container compressed-tensors; activations float8 fixed")
    assert {part: stored.shape for part, stored in form.stored(2, 3).items()} == {
        "weight": (2, 3),
        "weight_scale": (1,),
        "input_scale": (1,),
    }
    values = torch.tensor([[1.0, -2.0, 0.5], [4.0, 0.0, 8.0]])
    parts = {"weight": values.to(torch.float8_e4m3fn), "weight_scale": torch.tensor([0.25])}
    assert torch.equal(dequantize(form, parts, 2, 3), values / 4)
