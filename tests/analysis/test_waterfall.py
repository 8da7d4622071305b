"""Where a speed-up goes: the factors multiply up to what was measured, and each means what it says."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.speedup import speedup
from bench.analysis.waterfall import (
    BOTH,
    CACHE,
    KERNELS,
    NAMES,
    OVERHEAD,
    PREFILL,
    REST,
    WEIGHTS,
    TimedCell,
    fixed_seconds,
    waterfall,
)
from bench.limits.roofline import Traffic, bits_per_weight, limit, weight_bytes
from bench.report.sections.waterfall import section
from bench.speed.figures import MeasuredCell
from bench.speed.metrics import Interval, tpot_s
from testkit.records import controlled_record, device, native_cell, native_record, native_records, record, server
from tests.support.blocks import in_english
from tests.support.qwen3 import AWQ, QWEN3_8B, h20

times = st.floats(1e-4, 10)
sizes = st.floats(1e6, 1e12)
cells = st.builds(
    TimedCell,
    traffic=st.builds(Traffic, linear_bytes=sizes, rest_bytes=sizes, kv_bytes=sizes),
    tpot_s=times,
    e2e_s=times,
)


def qwen(published_tokens_per_s: float, bits: float | None) -> TimedCell:
    """Return input 1, 2048 tokens out, from a published figure of (prompt + generated tokens) / time.

    https://qwen.readthedocs.io/en/latest/getting_started/speed_benchmark.html; prefill of one token is a decode step.
    """
    result = limit(QWEN3_8B, weight_bytes(QWEN3_8B, bits), h20(), input_len=1, output_len=2048)
    e2e = 2049 / published_tokens_per_s
    return TimedCell(traffic=result.traffic, tpot_s=e2e / 2048, e2e_s=e2e)


def exact(value: float) -> Interval:
    return Interval(median=value, low=value, high=value, n=5)


@given(cells, cells, st.none() | times)
def test_the_factors_multiply_up_to_what_was_measured(
    before: TimedCell, after: TimedCell, fixed_s: float | None
) -> None:
    result = waterfall(before, after, fixed_s)
    assert math.prod(step.factor for step in result.steps[:-1]) == pytest.approx(before.tpot_s / after.tpot_s, rel=1e-9)
    assert math.prod(step.factor for step in result.steps) == pytest.approx(before.e2e_s / after.e2e_s, rel=1e-9)
    assert result.steps[-1].name == PREFILL
    assert result.steps[-1].product == result.end_to_end_speedup
    assert result.steps[-2].product == result.decode_speedup
    assert {step.name for step in result.steps} <= set(NAMES)


def test_published_figures_of_qwen3_8b() -> None:
    bf16, fp8, awq = qwen(81.73, None), qwen(150.25, 8), qwen(144.11, bits_per_weight(AWQ, QWEN3_8B))
    factors = {step.name: step.factor for step in waterfall(bf16, awq, None).steps}
    assert factors[WEIGHTS] == pytest.approx(16 / 4.15625)
    assert factors[WEIGHTS] * factors[REST] == pytest.approx(15.14 / 4.85, rel=1e-3)
    assert factors[CACHE] == pytest.approx(0.979, abs=1e-3)
    assert factors[BOTH] == pytest.approx(18.0 / 31.2, rel=5e-3), "the kernels reach 18 instead of 31 % of the memory"
    assert math.prod(factors.values()) == pytest.approx(144.11 / 81.73)
    fewer = {step.name: step.factor for step in waterfall(bf16, fp8, None).steps}
    assert fewer[WEIGHTS] == 2
    assert fewer[BOTH] == pytest.approx(1.0, abs=0.01), "FP8 reaches the same share of the memory"


@given(st.floats(0, 0.05), st.floats(1e9, 1e12), st.lists(st.floats(1e9, 1e12), min_size=2, max_size=6, unique=True))
def test_a_fixed_time_is_found_again(fixed_s: float, bytes_per_s: float, steps: list[float]) -> None:
    spread = max(steps) / min(steps)
    points = [(size, exact(fixed_s + size / bytes_per_s)) for size in steps]
    fitted_s = fixed_seconds(points)
    if fitted_s is None:
        assert spread < 1.01 or fixed_s < 1e-6 * max(steps) / bytes_per_s, "rounding may put it below zero"
    elif spread > 1.5:
        assert fitted_s == pytest.approx(fixed_s, rel=1e-4, abs=1e-6 * max(steps) / bytes_per_s)


def test_a_fixed_time_is_not_made_up() -> None:
    assert fixed_seconds([]) is None
    assert fixed_seconds([(1e9, exact(0.01))]) is None
    assert fixed_seconds([(1e9, exact(0.01)), (1e9, exact(0.02))]) is None, "one size"
    assert fixed_seconds([(1e9, exact(0.02)), (2e9, exact(0.01))]) is None, "longer inputs are not faster"
    assert fixed_seconds([(1e9, exact(0.01)), (2e9, exact(0.03))]) is None, "the line cuts below zero"
    rough = [(size, Interval(median=at, low=0.8 * at, high=1.2 * at, n=5)) for size, at in ((1e9, 0.01), (2e9, 0.012))]
    assert fixed_seconds(rough) is None, "within the spread"


def test_a_known_fixed_time_is_kept_apart_from_the_kernels() -> None:
    baseline = Traffic(linear_bytes=16e9, rest_bytes=0, kv_bytes=0)
    variant = Traffic(linear_bytes=8e9, rest_bytes=0, kv_bytes=0)
    fixed = 0.004
    before = TimedCell(traffic=baseline, tpot_s=fixed + 16e9 / 4e12, e2e_s=1)
    after = TimedCell(traffic=variant, tpot_s=fixed + 8e9 / 3e12, e2e_s=1)
    factors = {step.name: step.factor for step in waterfall(before, after, fixed).steps}
    assert factors[KERNELS] == pytest.approx(3 / 4)
    assert factors[OVERHEAD] < 1
    assert BOTH not in factors
    assert KERNELS not in {step.name for step in waterfall(before, after, 0.02).steps}, "longer than a whole step"


def test_interleaved_trials_are_divided_one_by_one() -> None:
    """Both drift by far more than they differ; trial by trial that cancels out."""
    rng = random.Random(0)
    drift = [rng.uniform(1, 3) for _ in range(9)]

    def drifting(pace: float, interleaved: bool) -> MeasuredCell:
        base = native_cell("bf16", 1, interleaved=interleaved)
        trial = base.trials[0]
        trials = []
        for factor in drift:
            request = trial.requests[0]
            events = tuple(round(at * factor * pace) for at in request.event_ns)
            trials.append(trial.model_copy(update={"requests": (request.model_copy(update={"event_ns": events}),)}))
        return MeasuredCell(base.model_copy(update={"trials": tuple(trials)}))

    paired = speedup(drifting(1, True), drifting(0.97, True), tpot_s)
    apart = speedup(drifting(1, False), drifting(0.97, False), tpot_s)
    assert paired
    assert apart
    assert paired.paired
    assert not apart.paired
    assert paired.ratio.median == pytest.approx(1 / 0.97, rel=1e-4)
    assert paired.verdict == "faster"
    assert apart.ratio.low < 1 < apart.ratio.high
    assert apart.verdict == "no difference seen"
    reverse = speedup(drifting(0.97, True), drifting(1, True), tpot_s)
    assert reverse
    assert reverse.verdict == "slower"


def test_few_trials_give_no_verdict() -> None:
    base = native_cell("bf16", 1)
    short = base.model_copy(update={"trials": base.trials[:2]})
    change = speedup(MeasuredCell(base), MeasuredCell(short), tpot_s)
    assert change
    assert change.verdict == "not enough data"
    assert speedup(MeasuredCell(base), MeasuredCell(native_cell("bf16", 1, output_len=1)), tpot_s) is None


def test_every_variant_with_quantized_kernels_is_drawn() -> None:
    shown = in_english(section(native_records()))
    assert shown
    text = repr(shown)
    assert text.count("waterfall") > 4
    assert "No breakdown" not in text
    assert "3.76" in text, "16 bits / 4.25"


def test_a_control_is_enough() -> None:
    shown = in_english(section([controlled_record()]))
    assert shown
    assert "trial by trial" in repr(shown)
    assert "1.40" in repr(shown)


def test_the_section_says_why_nothing_is_drawn() -> None:
    emulated = record("fp8", spec=native_record().spec, device=device(), server=server(), engine="vllm")
    shown = in_english(section([native_record(), emulated]))
    assert shown
    assert "its speed is emulated" in repr(shown)
    alone = in_english(section([native_record("fp8")]))
    assert alone
    assert "no BF16 run" in repr(alone)
    other = in_english(section([native_record(cells=()), native_record("fp8")]))
    assert other
    assert "no ok cell in common" in repr(other)


def test_records_without_a_device_have_no_waterfall() -> None:
    assert section([record(), record("fp8")]) is None
    assert section([native_record()]) is None
