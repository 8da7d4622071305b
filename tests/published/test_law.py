"""The law of the time per token: the fit recovers its parameters, and its intervals cover what they should."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.published.figures import cells
from bench.published.law import Law, fit, law_for

PAGES = {"sglang": "qwen3-speed", "vllm": "qwen2.5-speed", "transformers": "qwen3-speed"}
SIZES = np.array([1.2e9, 3.4e9, 8e9, 15e9, 28e9, 64e9])


def law_of(quant: str, engine: str) -> Law:
    """Return a law that exists."""
    law = law_for(quant, engine, PAGES[engine])
    assert law is not None
    return law


def test_the_law_of_qwen3_in_bf16_on_h20() -> None:
    law = law_of("bf16", "sglang")
    assert (law.source, law.device, law.peak_bytes_per_s) == ("qwen3-speed", "NVIDIA H20", 4e12)
    sizes = [residual.model.removeprefix("qwen3-") for residual in law.residuals]
    assert sizes == ["0.6b", "1.7b", "4b", "8b", "14b", "32b"]
    assert 1e3 * law.overhead_s == pytest.approx(1.5, abs=0.1)
    assert law.bandwidth_bytes_per_s == pytest.approx(1.38e12, rel=0.02)
    assert max(abs(residual.relative) for residual in law.residuals) < 0.08
    for residual in law.residuals:
        estimate = law.predict(residual.bytes_per_step)
        assert estimate.low < residual.tpot_s < estimate.high


def test_standard_errors_are_small_relative_to_their_estimates() -> None:
    law = law_of("bf16", "sglang")
    overhead, slope = law.standard_errors
    assert 0.01 < overhead / law.overhead_s < 0.2
    assert 0.01 < slope / law.s_per_byte < 0.1


def test_cells_at_other_settings_or_doubted_enter_no_law() -> None:
    plain = law_of("bf16", "vllm")
    assert "qwen2.5-32b-instruct" not in {residual.model for residual in plain.residuals}, "ran without CUDA graphs"
    four_bits = law_of("gptq-int4", "vllm")
    assert "qwen2.5-72b-instruct" not in {residual.model for residual in four_bits.residuals}
    [doubted] = [
        cell for cell in cells()
        if cell.model == "qwen2.5-72b-instruct" and cell.doubt and cell.input_len == 1
    ]  # fmt: skip
    assert doubted.tpot_s is not None
    assert doubted.tpot_s > four_bits.predict(39.3e9).high, "it is as far off as its doubt says"


def test_a_law_needs_cells() -> None:
    assert law_for("nvfp4", "sglang", PAGES["sglang"]) is None
    assert law_for("bf16", "attach", None) is None
    with pytest.raises(ValueError, match="at least 4"):
        fit([(1.0, 1.0)] * 9)


@given(
    st.floats(1e-4, 1e-2), st.floats(1e-13, 1e-11), st.lists(st.floats(1e8, 1e11), min_size=4, max_size=9, unique=True)
)
def test_a_law_without_noise_is_found(overhead: float, slope: float, sizes: list[float]) -> None:
    assume(max(sizes) > 1.5 * min(sizes))
    points = [(size, overhead + slope * size) for size in sizes]
    (fitted, fitted_slope), _, sd = fit(points)
    assert [fitted + fitted_slope * size for size in sizes] == pytest.approx([time for _, time in points], rel=1e-6)
    assert sd < 1e-6


def test_95_of_100_further_cells_lie_within_the_interval() -> None:
    rng = np.random.default_rng(0)
    published = law_of("bf16", "sglang")
    within = 0
    for _ in range(2000):
        times = (1.5e-3 + SIZES / 1.4e12) * (1 + 0.04 * rng.standard_normal(6))
        (overhead, slope), covariance, sd = fit(list(zip(SIZES, times, strict=True)))
        law = published.model_copy(
            update={"overhead_s": overhead, "s_per_byte": slope, "covariance": covariance, "relative_sd": sd}
        )
        further = float(rng.uniform(1e9, 6e10))
        estimate = law.predict(further)
        within += estimate.low < (1.5e-3 + further / 1.4e12) * (1 + 0.04 * rng.standard_normal()) < estimate.high
    assert 0.93 <= within / 2000 <= 0.97


def test_standard_errors_are_those_of_repeated_fits() -> None:
    rng = np.random.default_rng(1)
    fits = [
        fit(list(zip(SIZES, (1.5e-3 + SIZES / 1.4e12) * (1 + 0.04 * rng.standard_normal(6)), strict=True)))
        for _ in range(1000)
    ]
    for which in (0, 1):
        spread = np.std([parameters[which] for parameters, _, _ in fits])
        standard_error = np.sqrt(np.mean([covariance[which][which] for _, covariance, _ in fits]))
        assert standard_error == pytest.approx(spread, rel=0.1)


def test_a_faster_device_is_assumed_to_reach_the_same_share_of_its_bandwidth() -> None:
    law = law_of("bf16", "sglang")
    here, there = law.predict(16e9), law.predict(16e9, bandwidth_bytes_per_s=2 * law.peak_bytes_per_s)
    assert there.value - law.overhead_s == pytest.approx((here.value - law.overhead_s) / 2)
    assert there == law.predict(8e9)
