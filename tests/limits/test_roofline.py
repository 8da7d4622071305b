"""The physical limit: against hand-computed and published figures, and as the properties that any limit must have."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.compose import compose_job
from bench.config.spec import recorded
from bench.limits.measured import TOLERANCE, against, columns, exceeds, limit_of
from bench.limits.roofline import (
    KV_BITS,
    active_parameters,
    bandwidth,
    bits_per_weight,
    kv_bytes_per_token,
    limit,
    multiplied_in,
    peak,
    weight_bytes,
)
from bench.machine.peaks import lookup, table
from bench.records.record import SpeedCell, Variant
from bench.speed.metrics import summarize
from quantize.architecture import Architecture
from quantize.formats import Format
from testkit.records import (
    ARCHITECTURE,
    MODEL,
    cell,
    controlled_record,
    device,
    manifest,
    native_cell,
    native_record,
    record,
    recorded_spec,
    server,
)
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
    found = limit(QWEN3_8B, weight_bytes(QWEN3_8B, bits), h20(), input_len=1, output_len=2048)
    assert found.traffic.linear_bytes + found.traffic.rest_bytes == pytest.approx(step_gb * 1e9, rel=1e-3)
    tpot_s = (1 + 2048) / published_tokens_per_s / 2048
    assert 100 * found.decode.memory_s / tpot_s == pytest.approx(mbu_percent, abs=0.05)
    assert found.decode.by == "memory"
    assert found.decode.bytes == found.traffic.total_bytes


def test_a_long_prefill_is_bound_by_arithmetic() -> None:
    found = limit(QWEN3_8B, weight_bytes(QWEN3_8B, None), h20(), input_len=30720, output_len=1)
    n, attention = 30720, 4 * 36 * 32 * 128
    flops = 2 * n * QWEN3_8B.linear_parameters() + 2 * 151936 * 4096 + attention * n**2 / 2
    assert found.prefill.by == "compute"
    assert found.prefill.flops == pytest.approx(flops)
    assert found.roof_ttft_s == pytest.approx(flops / 148e12)
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
    one, many = (
        limit(QWEN3_235B, weights, h20(), input_len=512, output_len=64, concurrency=c, devices=8) for c in (1, 32)
    )
    assert one.decode == one.least_decode
    assert many.least_decode == one.least_decode
    assert many.traffic.linear_bytes > 5 * one.traffic.linear_bytes
    assert many.traffic.rest_bytes == one.traffic.rest_bytes


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
    found = limit(architecture, weight_bytes(architecture, bits), h20(), **shape)
    assert 0 < found.least_decode.seconds <= found.decode.seconds * (1 + 1e-12)
    assert 0 < found.least_prefill.seconds <= found.prefill.seconds * (1 + 1e-12)
    assert found.roof_tokens_per_s == 1 / found.roof_tpot_s


@given(models, shapes, st.floats(4, 8))
def test_fewer_bits_and_more_devices_never_raise_the_limit(
    architecture: Architecture, shape: dict, bits: float
) -> None:
    found = limit(architecture, weight_bytes(architecture, bits), h20(), **shape)
    wide = limit(architecture, weight_bytes(architecture, 2 * bits), h20(), **shape)
    more = limit(architecture, weight_bytes(architecture, bits), h20(), **{**shape, "devices": 2 * shape["devices"]})
    assert found.decode.seconds <= wide.decode.seconds
    assert found.prefill.seconds <= wide.prefill.seconds
    assert more.decode.seconds == pytest.approx(found.decode.seconds / 2)
    assert more.prefill.seconds == pytest.approx(found.prefill.seconds / 2)


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
    assert bandwidth(dip, 1 << 18) == 180e9, "short reads are slowed by what starts them"


def at_pace(made: SpeedCell, factor: float) -> SpeedCell:
    """Return a cell all of whose times are multiplied."""
    trials = []
    for trial in made.trials:
        requests = tuple(
            one.model_copy(update={"event_ns": tuple(round(at * factor) for at in one.event_ns)})
            for one in trial.requests
        )
        trials.append(trial.model_copy(update={"requests": requests}))
    return made.model_copy(update={"trials": tuple(trials)})


def test_a_cell_is_held_against_its_limit() -> None:
    made = native_record()
    found, summary = limit_of(made, made.cells[0]), summarize(made.cells[0])
    assert found
    assert summary
    share = against(found, summary)
    assert share.mbu == share.decode
    assert summary.decode_tokens_per_s
    assert share.decode == pytest.approx(summary.decode_tokens_per_s.median / found.roof_tokens_per_s)
    assert summary.ttft_s
    assert share.prefill == pytest.approx(found.roof_ttft_s / summary.ttft_s.median)
    assert exceeds(found, made.cells[0]) is None


@pytest.mark.parametrize("margin", [0.5, 0.999, 1.001, 1.5])
def test_faster_than_the_memory_allows_is_an_error(margin: float) -> None:
    made = native_record()
    slow = native_cell("bf16", 1)
    found, summary = limit_of(made, slow), summarize(slow)
    assert found
    assert summary
    assert summary.tpot_s
    edge = found.least_decode.seconds / (1 + TOLERANCE)
    fast = at_pace(slow, margin * edge / summary.tpot_s.median)
    said = exceeds(found, fast)
    if margin > 1:
        assert said is None or said.startswith("prefill")
    else:
        assert said
        assert re.match(r"decode moved \d+ % of what the memory of AMD EPYC 9R14, 2 threads can \(TPOT ", said)
        assert said.endswith("a cache hit, a miscount, or more than one token a step")


def test_a_prompt_from_the_cache_is_an_error() -> None:
    made, slow = native_record(), native_cell("bf16", 1024, output_len=1)
    found, summary = limit_of(made, slow), summarize(slow)
    assert found
    assert summary
    assert summary.ttft_s
    fast = at_pace(slow, 0.1 * found.least_prefill.seconds / summary.ttft_s.median)
    said = exceeds(found, fast)
    assert said
    assert said.startswith("prefill multiplied 1000 % of what the arithmetic of")
    assert against(found, summary).mbu is None, "one token has no TPOT"


def test_nothing_is_held_against_what_is_not_known() -> None:
    good = native_record()
    assert limit_of(good, good.cells[0])
    for changes in (
        {"device": None},
        {"server": None},
        {"checkpoint": None},
        {"spec": recorded_spec()},
        {"server": server(kv_cache_dtype="turboquant")},
        {"checkpoint": manifest("bf16", quantization_config={"quant_method": "bitsandbytes"})},
    ):
        made = native_record(**changes)
        assert limit_of(made, made.cells[0]) is None
        assert set(columns(made, made.cells[0]).values()) == {None}
    for status in ("emulated", "invalid", "failed", "not_supported"):
        assert limit_of(good, cell("bf16", 256, status=status)) is None
    assert limit_of(record(), record().cells[0]) is None, "a record of before there were devices"


def test_the_baseline_beside_it_is_held_against_its_own_checkpoint() -> None:
    made = controlled_record("fp8")
    assert made.control
    own, beside = limit_of(made, made.cells[0]), limit_of(made, made.control.cells[0])
    assert own
    assert beside
    assert beside.traffic.linear_bytes == 2 * Architecture.model_validate(ARCHITECTURE).linear_parameters()
    assert own.traffic.linear_bytes == pytest.approx(beside.traffic.linear_bytes * 8.03 / 16)
    assert own.multiplied_in == "fp8"


def test_an_open_loop_is_held_against_one_request_alone() -> None:
    made = native_record()
    closed = limit_of(made, native_cell("bf16", 256))
    opened = limit_of(
        made, native_cell("bf16", 256, request_rate=2.0, n_requests=64).model_copy(update={"concurrency": 99})
    )
    assert opened == closed


def test_the_export_has_the_columns_of_the_limit() -> None:
    made = native_record()
    row = columns(made, made.cells[-1])
    assert list(row) == ["roof_tokens_per_s", "mbu", "roof_ttft_s", "mfu", "bound_by", "bound_by_prefill"]
    assert row["bound_by"] == "memory"
    assert row["bound_by_prefill"] == "compute"
    assert isinstance(row["mbu"], float)
    assert 0 < row["mbu"] < 1


def test_a_composed_spec_carries_the_architecture_that_the_limit_needs() -> None:
    asked = recorded(compose_job(["+model=qwen3-8b", "quant=bf16", "session=test"]))
    made = native_record(spec=asked, device=h20())
    found = limit_of(made, made.cells[0])
    assert found
    assert found.traffic.linear_bytes == 2 * QWEN3_8B.linear_parameters()
    assert made.cells[0].variant == Variant(model=MODEL, quant="bf16")


@pytest.mark.parametrize(
    ("name", "terabytes_per_s"),
    [
        ("NVIDIA H20", 4.0),
        ("NVIDIA H20-3e", 4.8),
        ("NVIDIA H100 80GB HBM3", 3.35),
        ("NVIDIA H100 PCIe", 2.0),
        ("NVIDIA H100 NVL", 3.9),
        ("NVIDIA H200", 4.8),
        ("NVIDIA H200 NVL", 4.8),
        ("NVIDIA H800", 3.35),
        ("NVIDIA H800 PCIe", 2.0),
        ("NVIDIA GH200 480GB", 4.0),
        ("NVIDIA A100-SXM4-80GB", 2.039),
        ("NVIDIA A100-SXM4-40GB", 1.555),
        ("NVIDIA A100-PCIE-40GB", 1.555),
        ("NVIDIA A100 80GB PCIe", 1.935),
        ("NVIDIA A800-SXM4-80GB", 2.039),
        ("NVIDIA L40S", 0.864),
        ("NVIDIA L40", 0.864),
        ("NVIDIA L4", 0.3),
        ("NVIDIA A10", 0.6),
        ("NVIDIA A30", 0.933),
        ("NVIDIA GeForce RTX 3090", 0.936),
        ("NVIDIA GeForce RTX 4090", 1.008),
        ("NVIDIA GeForce RTX 5090", 1.792),
        ("NVIDIA RTX 6000 Ada Generation", 0.96),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1.792),
        ("NVIDIA B200", 8.0),
        ("NVIDIA GB200", 8.0),
        ("Tesla V100-SXM2-32GB", 0.9),
        ("Tesla T4", 0.32),
    ],
)
def test_a_device_is_found_by_the_name_its_driver_gives(name: str, terabytes_per_s: float) -> None:
    found = lookup(name)
    assert found
    assert found.bandwidth_bytes_per_s == pytest.approx(terabytes_per_s * 1e12)


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H20N", "NVIDIA GeForce RTX 4090 D", "NVIDIA A10G", "NVIDIA L400", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", ""],
)
def test_a_device_that_only_looks_alike_is_not_taken_for_it(name: str) -> None:
    assert lookup(name) is None


def test_every_entry_of_the_table_has_a_source_and_dense_figures() -> None:
    for entry in table():
        assert "https://" in entry.source
        assert entry.tflops["bf16"] > entry.tflops["fp32"]
        assert set(entry.tflops) <= {"fp32", "bf16", "fp8", "int8", "fp4"}
        for narrow in {"fp8", "int8"} & set(entry.tflops):
            assert 1.9 < entry.tflops[narrow] / entry.tflops["bf16"] < 4.1
