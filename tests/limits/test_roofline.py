"""The physical limit: against hand-computed and published figures, and as the properties that any limit must have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.compose import compose_job
from bench.config.spec import record_spec
from bench.limits.measured import limit_of
from bench.limits.roofline import (
    KV_BITS,
    Bound,
    active_parameters,
    bandwidth,
    bits_per_weight,
    kv_bytes_per_token,
    limit,
    multiplied_in,
    peak,
    weight_bytes,
)
from bench.machine.peaks import lookup
from bench.records.record import Variant
from bench.speed.figures import MeasuredCell
from quantize.architecture import Architecture
from quantize.formats import Format
from testkit.records import MODEL, device, manifest, native_record
from tests.support.qwen3 import AWQ, FP8, QWEN3_8B, QWEN3_235B, h20


def test_parameters_of_qwen3_8b_are_the_published_ones() -> None:
    assert QWEN3_8B.linear_parameters() == pytest.approx(6.946e9, rel=1e-4)
    assert QWEN3_8B.vocab_size * QWEN3_8B.hidden_size == pytest.approx(0.622e9, rel=1e-3)
    assert kv_bytes_per_token(QWEN3_8B) == 147_456
    assert kv_bytes_per_token(QWEN3_8B, "fp8_e4m3") == 147_456 / 2


def test_a_model_with_experts_uses_few_of_its_parameters() -> None:
    assert QWEN3_235B.parameters() == pytest.approx(235.09e9, rel=1e-4)
    assert active_parameters(QWEN3_235B) == pytest.approx(22.19e9, rel=1e-4)
    assert active_parameters(QWEN3_8B) == QWEN3_8B.parameters()


@pytest.mark.parametrize(
    ("form", "step_gb", "published_tokens_per_s", "mbu_percent"),
    [(None, 15.14, 81.73, 31.2), (FP8, 8.19, 150.25, 31.3), (AWQ, 4.85, 144.11, 18.0)],
)
def test_published_speeds_of_qwen3_8b_on_h20(
    form: Format | None, step_gb: float, published_tokens_per_s: float, mbu_percent: float
) -> None:
    """Input 1, 2048 tokens out, one request: https://qwen.readthedocs.io/en/latest/getting_started/speed_benchmark.html."""
    bits = bits_per_weight(form, QWEN3_8B) if form else None
    bound = limit(QWEN3_8B, weight_bytes(QWEN3_8B, bits), h20(), input_len=1, output_len=2048)
    assert bound.traffic.linear_bytes + bound.traffic.rest_bytes == pytest.approx(step_gb * 1e9, rel=1e-3)
    tpot_s = (1 + 2048) / published_tokens_per_s / 2048
    assert 100 * bound.decode.memory_s / tpot_s == pytest.approx(mbu_percent, abs=0.05)
    assert bound.decode.by == "memory"
    assert bound.decode.moved_bytes == bound.traffic.total_bytes


def test_a_long_prefill_is_bound_by_arithmetic() -> None:
    bound = limit(QWEN3_8B, weight_bytes(QWEN3_8B, None), h20(), input_len=30720, output_len=1)
    n, attention = 30720, 4 * 36 * 32 * 128
    flops = 2 * n * QWEN3_8B.linear_parameters() + 2 * 151936 * 4096 + attention * n**2 / 2
    assert bound.prefill.by == "compute"
    assert bound.prefill.flops == pytest.approx(flops)
    assert bound.roof_ttft_s == pytest.approx(flops / 148e12)
    short = limit(QWEN3_8B, weight_bytes(QWEN3_8B, None), h20(), input_len=1, output_len=1)
    assert short.prefill.by == "memory"


def test_only_layers_with_rounded_activations_multiply_faster() -> None:
    shape = {"input_len": 30720, "output_len": 1}
    plain = limit(QWEN3_8B, weight_bytes(QWEN3_8B, None), h20(), **shape)
    weights_only = limit(QWEN3_8B, weight_bytes(QWEN3_8B, bits_per_weight(AWQ, QWEN3_8B)), h20(), **shape)
    both = limit(QWEN3_8B, weight_bytes(QWEN3_8B, 8), h20(), **shape, multiplied_in="fp8")
    assert weights_only.prefill.compute_s == plain.prefill.compute_s
    linear_s = 2 * 30720 * QWEN3_8B.linear_parameters() / 148e12
    assert plain.prefill.compute_s - both.prefill.compute_s == pytest.approx(linear_s / 2)


def test_the_kind_of_multiplication_is_read_from_the_checkpoint() -> None:
    kinds = {quant: multiplied_in(manifest(quant).quantization_config) for quant in ("bf16", "fp8", "gptq-int4")}
    assert kinds == {"bf16": "bf16", "fp8": "fp8", "gptq-int4": "bf16"}


def test_a_device_without_a_type_multiplies_in_a_wider_one() -> None:
    a100, h100 = lookup("NVIDIA A100-SXM4-80GB"), lookup("NVIDIA H100 80GB HBM3")
    assert a100
    assert h100
    assert peak(a100, "fp8") == peak(a100, "bf16") == 312e12
    assert peak(h100, "fp8") == 1979e12
    assert peak(h100, "fp4") == 1979e12
    slow_half = device(flops_per_s={"fp32": 2e11, "bf16": 1e11})
    assert peak(slow_half, "bf16") == 2e11, "bf16 numbers can be multiplied as fp32"


def test_batches_reach_more_experts_and_the_least_stays() -> None:
    weights = weight_bytes(QWEN3_235B, None)
    assert weights.experts_read(1) == pytest.approx(8)
    assert weights.experts_read(8) == pytest.approx(128 * (1 - (1 - 8 / 128) ** 8))
    assert weights.experts_read(10_000) == pytest.approx(128)
    single, many = (
        limit(QWEN3_235B, weights, h20(), input_len=512, output_len=64, concurrency=c, devices=8) for c in (1, 32)
    )
    assert single.decode == single.least_decode
    assert many.least_decode == single.least_decode
    assert many.traffic.linear_bytes > 5 * single.traffic.linear_bytes
    assert many.traffic.rest_bytes == single.traffic.rest_bytes


def test_a_decode_step_multiplies_each_weight_once_for_each_request() -> None:
    step = {"input_len": 1000, "output_len": 200, "concurrency": 16}
    bound = limit(QWEN3_8B, weight_bytes(QWEN3_8B, None), h20(), **step)
    linear, head, attention = 36 * 192_937_984, 151_936 * 4096, 4 * 36 * 32 * 128
    assert bound.decode.flops == 16 * (2 * linear + 2 * head + attention * 1100)
    assert bound.decode.compute_s == pytest.approx(bound.decode.flops / 148e12)
    assert bound.traffic.kv_bytes == 16 * 1100 * 147_456
    assert bound.decode.moved_bytes == 2 * linear + 2 * head + 16 * 1100 * 147_456
    assert bound.least_decode.flops == bound.decode.flops / 16
    eight = limit(QWEN3_8B, weight_bytes(QWEN3_8B, 8), h20(), **step, multiplied_in="fp8", kv_cache_dtype="fp8")
    seconds = 16 * (2 * linear / 296e12 + 2 * head / 148e12 + attention * 1100 / 296e12)
    assert eight.decode.compute_s == pytest.approx(seconds)


def test_a_token_of_a_model_with_experts_uses_some_of_them_and_every_router() -> None:
    attention, expert, router, head = 71_303_168, 3 * 4096 * 1536, 128 * 4096, 151_936 * 4096
    weights = weight_bytes(QWEN3_235B, None)
    assert weights.attention_bytes == 2 * 94 * attention
    assert weights.mlp_bytes == 2 * 94 * expert
    assert weights.rest_bytes == 2 * (head + 94 * router)
    bound = limit(QWEN3_235B, weights, h20(), input_len=512, output_len=2, concurrency=3)
    width = 4 * 94 * 64 * 128
    assert bound.decode.flops == 3 * (2 * 94 * (attention + 8 * expert + router) + 2 * head + width * 513)
    assert bound.least_prefill.flops == 512 * 2 * 94 * (attention + 8 * expert + router) + 2 * head + width * 512**2 / 2
    assert bound.least_prefill.moved_bytes == weights.rest_bytes + 2 * 94 * (attention + 8 * expert) + 512 * 192_512


def test_a_limit_is_of_one_request_on_one_device_unless_it_says_otherwise() -> None:
    weights, lengths = weight_bytes(QWEN3_8B, None), {"input_len": 512, "output_len": 8}
    assert limit(QWEN3_8B, weights, h20(), **lengths) == limit(
        QWEN3_8B, weights, h20(), **lengths, concurrency=1, devices=1, kv_cache_dtype="bf16", multiplied_in="bf16"
    )
    together = limit(QWEN3_8B, weights, h20(), **lengths, concurrency=4)
    assert together == limit(QWEN3_8B, weights, h20(), **lengths, concurrency=4, sent_together=True)


def test_weights_of_32_bits_take_twice_as_much_where_they_are_not_quantized() -> None:
    plain, wide = (weight_bytes(QWEN3_8B, None, plain_bits=bits) for bits in (16, 32))
    assert (wide.attention_bytes, wide.mlp_bytes) == (2 * plain.attention_bytes, 2 * plain.mlp_bytes)
    assert wide.rest_bytes == 2 * plain.rest_bytes == 4 * 151_936 * 4096
    assert weight_bytes(QWEN3_8B, 4, plain_bits=32).attention_bytes == plain.attention_bytes / 4


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (16, ("auto", "bfloat16", "bf16", "float16", "fp16", "half")),
        (8, ("fp8", "fp8_e4m3", "fp8_e5m2", "int8")),
        (4 + 8 / 16, ("fp4_e2m1",)),  # a scale of 8 bits for each 16 values
        (32, ("float32",)),
    ],
)
def test_keys_and_values_have_the_bits_of_their_type(bits: float, names: tuple[str, ...]) -> None:
    """For the keys and values of 36 layers, 8 heads and 128 channels."""
    assert {kv_bytes_per_token(QWEN3_8B, name) for name in names} == {2 * 36 * 8 * 128 * bits / 8}
    assert kv_bytes_per_token(QWEN3_8B) == 147_456


def test_stored_bits_count_scales_and_zero_points() -> None:
    assert bits_per_weight(AWQ, QWEN3_8B) == pytest.approx(4 + (16 + 4) / 128)
    assert bits_per_weight(FP8, QWEN3_8B) == pytest.approx(8 + 16 / 128**2)
    # A scale for each row is a greater part of a layer with short rows, and experts are most of the layers.
    by_row = FP8.model_copy(update={"rows_per_scale": 1, "columns_per_scale": None, "container": "compressed-tensors"})
    rows = (64 + 4 + 4) * 128 + 4096 + 128 * (1536 + 1536 + 4096)
    weights = 71_303_168 + 128 * 3 * 4096 * 1536
    assert bits_per_weight(by_row, QWEN3_235B) == pytest.approx(8 + 16 * rows / weights)


def test_memory_binds_where_both_take_the_same_time() -> None:
    even = Bound(moved_bytes=1, flops=1, memory_s=2.0, compute_s=2.0)
    assert (even.by, even.time_s) == ("memory", 2.0)
    assert Bound(moved_bytes=1, flops=1, memory_s=1.9, compute_s=2.0).by == "compute"


def test_numbers_of_an_unknown_type_are_multiplied_in_16_bits() -> None:
    assert peak(h20(), "int3") == peak(h20(), "bf16") == 148e12
    assert peak(device(flops_per_s={"fp32": 1.0, "bf16": 2.0, "int8": 3.0}), "int8") == 3.0
    assert peak(device(flops_per_s={"fp32": 1.0, "bf16": 2.0, "fp8": 4.0}), "int8") == 2.0
    assert peak(device(flops_per_s={"bf16": 2.0, "fp8": 3.0, "fp4": 5.0}), "fp4") == 5.0


shapes = st.fixed_dictionaries(
    {
        "input_len": st.integers(1, 130_000),
        "output_len": st.integers(1, 4096),
        "concurrency": st.integers(1, 256),
        "devices": st.integers(1, 8),
        "kv_cache_dtype": st.sampled_from(sorted(KV_BITS)),
        "multiplied_in": st.sampled_from(["bf16", "fp8", "int8", "fp4"]),
        "sent_together": st.booleans(),
    }
)
models = st.sampled_from([QWEN3_8B, QWEN3_235B])


@given(models, shapes, st.floats(4, 16))
def test_nothing_is_asked_of_a_server_that_its_roof_allows(
    architecture: Architecture, shape: dict, bits: float
) -> None:
    bound = limit(architecture, weight_bytes(architecture, bits), h20(), **shape)
    assert 0 < bound.least_decode.time_s <= bound.decode.time_s * (1 + 1e-12)
    assert 0 < bound.least_prefill.time_s <= bound.prefill.time_s * (1 + 1e-12)
    assert bound.roof_tokens_per_s == 1 / bound.roof_tpot_s


@given(models, shapes, st.floats(4, 8))
def test_fewer_bits_and_more_devices_never_raise_the_limit(
    architecture: Architecture, shape: dict, bits: float
) -> None:
    bound = limit(architecture, weight_bytes(architecture, bits), h20(), **shape)
    wide = limit(architecture, weight_bytes(architecture, 2 * bits), h20(), **shape)
    more = limit(architecture, weight_bytes(architecture, bits), h20(), **{**shape, "devices": 2 * shape["devices"]})
    assert bound.decode.time_s <= wide.decode.time_s
    assert bound.prefill.time_s <= wide.prefill.time_s
    assert more.decode.time_s == pytest.approx(bound.decode.time_s / 2)
    assert more.prefill.time_s == pytest.approx(bound.prefill.time_s / 2)


def test_of_requests_sent_together_the_median_waits_for_half() -> None:
    def ttft(concurrency: int, *, sent_together: bool) -> float:
        weights = weight_bytes(QWEN3_8B, None)
        shape = {"input_len": 4096, "output_len": 1, "concurrency": concurrency}
        return limit(QWEN3_8B, weights, h20(), **shape, sent_together=sent_together).roof_ttft_s

    assert ttft(7, sent_together=True) == pytest.approx(4 * ttft(1, sent_together=True))
    assert ttft(7, sent_together=False) == pytest.approx(ttft(1, sent_together=True))


def test_small_models_may_live_in_a_cache() -> None:
    here = device()
    assert bandwidth(here, 1000) == 180e9
    assert bandwidth(here, 1 << 20) == 180e9
    assert bandwidth(here, (1 << 25) - 1) == 180e9, "between two sizes the limit is not too low"
    assert bandwidth(here, 1 << 25) == 60e9
    assert bandwidth(here, 1 << 40) == 20e9
    assert bandwidth(h20(), 1000) == 4e12
    dip = device(bandwidth_by_size=((1 << 18, 40e9), (1 << 20, 180e9), (1 << 30, 20e9)))
    assert bandwidth(dip, 1 << 18) == 180e9, "short reads are slowed by their start"


def test_a_composed_spec_carries_the_architecture_that_the_limit_needs() -> None:
    spec = record_spec(compose_job(["+model=qwen3-8b", "quant=bf16", "session=test"]))
    run = native_record(spec=spec, device=h20())
    bound = limit_of(run, MeasuredCell(run.cells[0]))
    assert bound
    assert bound.traffic.linear_bytes == 2 * QWEN3_8B.linear_parameters()
    assert run.cells[0].variant == Variant(model=MODEL, quant="bf16")
