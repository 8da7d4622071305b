"""Claims tested by figures: an answer only where a figure decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.compose import names
from bench.published.claims import Finding, answer_of, published_findings
from bench.published.figures import Claim, claims
from bench.report.claims import measured_findings
from testkit.records import native_records, record


def claim(name: str) -> Claim:
    """Return a claim by its id."""
    [match] = [each for each in claims() if each.id == name]
    return match


def finding_on(name: str, model: str, label: str, where: str, input_len: int | None = None) -> Finding:
    """Return the only published finding of that name."""
    [finding] = [
        finding
        for finding in published_findings(claim(name))
        if (finding.model, finding.label, finding.where, finding.input_len) == (model, label, where, input_len)
    ]
    return finding


@given(st.floats(-1, 2), st.floats(0, 0.5))
def test_a_claim_holds_only_where_the_whole_interval_is_in_its_range(value: float, half: float) -> None:
    speed_claim = claim("fp8-speed")
    low, high = value - half, value + half
    answer = answer_of(speed_claim, value, low, high)
    assert (answer == "holds") == (low >= 0.5 and high <= 1.0)
    assert (answer == "does not hold") == (high < 0.5 or low > 1.0)
    assert answer_of(speed_claim, value) in ("holds", "does not hold"), "a figure without an interval decides alone"


def test_published_figures_answer_every_claim_on_quantizations_offered_here() -> None:
    for each in claims():
        assert set(each.quants) <= set(names("quant"))
        findings = published_findings(each)
        assert findings
        assert {finding.claim.id for finding in findings} == {each.id}
        assert not any(finding.measured for finding in findings)


@pytest.mark.parametrize(
    ("model", "input_len", "gain", "answer"),
    [
        ("qwen3-8b", 1, 150.25 / 81.73 - 1, "holds"),
        ("qwen3-8b", 129024, 1393.21 / 1173.32 - 1, "does not hold"),
        ("qwen3-0.6b", 1, 458.03 / 414.17 - 1, "does not hold"),
        ("qwen3-32b", 1, 46.17 / 20.72 - 1, "does not hold"),
    ],
)
def test_the_speedup_of_fp8_depends_on_the_model_and_the_length(
    model: str, input_len: int, gain: float, answer: str
) -> None:
    finding = finding_on("fp8-speed", model, "FP8", "sglang", input_len)
    assert finding.value == pytest.approx(gain)
    assert finding.answer == answer
    assert finding.points is None


def test_only_cells_alike_are_divided() -> None:
    places = {
        (finding.model, finding.where, finding.input_len)
        for name in ("fp8-speed", "int4-speed", "int8-speed")
        for finding in published_findings(claim(name))
    }
    assert ("qwen3-32b", "sglang", 63488) in places
    assert ("qwen3-32b", "sglang", 129024) not in places, "BF16 ran on two devices there"
    assert ("qwen3-235b-a22b", "sglang", 1) not in places, "BF16 ran on eight devices, the others on four"
    assert ("qwen2.5-32b-instruct", "vllm", 1) not in places, "BF16 ran without CUDA graphs"


def test_losses_are_relative_and_in_points() -> None:
    finding = finding_on("int4-accuracy", "qwen2-7b-instruct", "GPTQ-Int4", "mmlu")
    assert finding.value == pytest.approx(1 - 67.8 / 70.5)
    assert finding.points == pytest.approx(0.027)
    assert finding.low is not None
    assert finding.high is not None
    assert finding.low < finding.value < finding.high
    assert finding.answer == "undecided"
    assert finding_on("fp8-accuracy", "qwen3-8b", "FP8_BLOCK RTN", "mmlu").answer == "holds"


def test_540_prompts_do_not_decide_whether_fp8_loses_two_percent() -> None:
    assert finding_on("fp8-accuracy", "qwen3-8b", "fp8", "ifeval").answer == "undecided"


def test_measured_figures_answer_with_their_interval() -> None:
    findings = measured_findings(claim("fp8-speed"), native_records())
    assert {(finding.measured, finding.label) for finding in findings} == {(True, "fp8")}
    for finding in findings:
        assert finding.low is not None
        assert finding.high is not None
        assert finding.low <= finding.value <= finding.high
        assert finding.answer == answer_of(finding.claim, finding.value, finding.low, finding.high)
    losses = measured_findings(claim("int4-accuracy"), native_records())
    assert {finding.label for finding in losses} == {"gptq-int4", "awq-int4"}
    assert all(finding.points is not None for finding in losses)


def test_emulated_speeds_answer_nothing() -> None:
    assert not measured_findings(claim("fp8-speed"), [record("bf16"), record("fp8")])
