"""Replication of published figures: only like with like, and only with enough data."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.published.figures import PublishedScore
from bench.published.replication import TOLERANCE, replicate_cell, replicate_score, replications, score_replications
from bench.records.record import RunRecord
from testkit.manifests import manifest
from testkit.records import record, server
from tests.support.published import H100, measured, ours, published


@pytest.mark.parametrize(
    ("run", "kind", "reason"),
    [
        (measured(81.73), "reproduced", "sglang 0.5.23, published with 0.4.6.post1"),
        (measured(85), "reproduced", "1.040 times"),
        (measured(95), "faster", ""),
        (measured(70), "slower", ""),
        (measured(95, trials=2), "not enough data", "at least 3"),
        (measured(190, device=H100), "not comparable", "published on H20 96GB, measured on NVIDIA H100 SXM"),
        (measured(95, device=None), "not comparable", "the device here is unknown"),
        (measured(95, server=server(devices=2)), "not comparable", "published on 1 devices, measured on 2"),
    ],
)
def test_a_measured_cell_is_compared_with_the_published_one(run: RunRecord, kind: str, reason: str) -> None:
    [(_, replication)] = replications([run])
    assert replication.kind == kind
    assert reason in str(replication.reason)
    assert replication.published.speed_tokens_per_s == 81.73
    assert (replication.ratio is None) == (kind == "not comparable")
    assert replication.published_of_roof == pytest.approx(0.312, abs=0.001)


def test_on_other_hardware_both_shares_of_the_roof_are_shown() -> None:
    [(_, replication)] = replications([measured(81.73, device=H100)])
    assert replication.published_of_roof == pytest.approx(0.312, abs=0.001)
    assert replication.of_roof == pytest.approx(0.312 * 4.0 / 3.35, abs=0.002), "less bandwidth"


@given(st.floats(0.5, 2))
@settings(deadline=None, max_examples=20)
def test_the_tolerance_decides_where_trials_agree(times: float) -> None:
    [(_, replication)] = replications([measured(81.73 * times)])
    assert replication.ratio is not None
    assert replication.ratio.median == pytest.approx(times, rel=1e-6)
    if abs(times - 1) < TOLERANCE - 1e-6:
        assert replication.kind == "reproduced"
    elif abs(times - 1) > TOLERANCE + 1e-6:
        assert replication.kind == ("faster" if times > 1 else "slower")


def test_an_emulated_cell_is_not_comparable() -> None:
    run = measured(81.73)
    cell = run.cells[0].model_copy(update={"status": "emulated"})
    replication = replicate_cell(run, cell, published("qwen3-8b", "BF16", "sglang", 1))
    assert replication.kind == "not comparable"
    assert (replication.speed_tokens_per_s, replication.ratio, replication.of_roof) == (None, None, None)


@pytest.mark.parametrize(
    "changes", [{"concurrency": 8}, {"output_len": 1024}, {"input_len": 2}, {"request_rate_per_s": 1.0}]
)
def test_only_the_published_shape_is_compared(changes: dict[str, Any]) -> None:
    run = measured(81.73)
    assert not replications([run.model_copy(update={"cells": (run.cells[0].model_copy(update=changes),)})])


def test_fp8_with_scales_of_blocks_is_compared_with_qwens_release() -> None:
    blocks = manifest("fp8", "qwen3-8b", quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    [(_, replication)] = replications([measured(150, quant="fp8", checkpoint=blocks)])
    assert (replication.published.label, replication.kind) == ("FP8", "reproduced")
    assert not replications([measured(150, quant="fp8")]), "ours has a scale for each row"
    assert replications([measured(150, quant="fp8-block")])


def test_the_reason_names_doubts_and_settings_of_the_published_cell() -> None:
    run = measured(81.73)
    cell = published("qwen3-8b", "BF16", "sglang", 1)
    reason = str(replicate_cell(run, run.cells[0], cell.model_copy(update={"doubt": "too good"})).reason)
    assert "the published figure is doubtful: too good" in reason
    eager = cell.model_copy(update={"source": "qwen2-speed", "setting": "Setting 2"})
    assert "published on A100 80GB" in str(replicate_cell(run, run.cells[0], eager).reason)


def theirs(**changes: Any) -> PublishedScore:
    """Return a published MMLU of Qwen2-7B in BF16."""
    values: dict[str, Any] = {
        "source": "qwen2-quantization", "model": "qwen2-7b-instruct", "quant": "bf16", "label": "BF16", "task": "mmlu",
        "metric": "acc", "score": 0.705, "bf16_score": None, "n_items": 14042,
    }  # fmt: skip
    return PublishedScore.model_validate(values | changes)


@pytest.mark.parametrize(
    ("value", "kind"), [(0.705, "reproduced"), (0.713, "reproduced"), (0.73, "higher"), (0.68, "lower")]
)
def test_a_score_is_compared_with_the_published_one(value: float, kind: str) -> None:
    replication = replicate_score(ours(value), theirs())
    assert replication.kind == kind
    assert replication.difference is not None
    low, middle, high = replication.difference
    assert middle == pytest.approx(value - 0.705)
    assert high - low == pytest.approx(2 * 1.96 * (0.0038**2 + 0.705 * 0.295 / 14042) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("score_changes", "page_changes", "reason"),
    [
        ({"n_items": 1140}, {}, "1,140 of 14,042 items were asked"),
        ({"status": "invalid"}, {}, "the score is invalid"),
        ({}, {"n_items": None}, "not known on both sides"),
        ({}, {"metric": "exact_match"}, "exact_match and its number of items are not known"),
        ({"num_fewshot": 5}, {"source": "auto-round-fp8-block"}, "published with 0 examples before each question"),
        ({"thinking": True}, {"source": "silybench"}, "measured with thinking, published without"),
    ],
)
def test_scores_of_other_questions_are_not_compared(
    score_changes: dict[str, Any], page_changes: dict[str, Any], reason: str
) -> None:
    replication = replicate_score(ours(**score_changes), theirs(**page_changes))
    assert replication.kind == "not comparable"
    assert reason in str(replication.reason)
    assert replication.difference is None


def test_every_published_score_of_the_variant_is_found() -> None:
    run = record("bf16", "qwen2-7b-instruct", cells=(), scores=(ours(), ours(repeat=1)))
    [(_, replication)] = score_replications([run])
    assert (replication.published.source, replication.kind) == ("qwen2-quantization", "reproduced")
    assert replication.published.score == 0.705
