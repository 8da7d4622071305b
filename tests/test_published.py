"""Figures of others: every row is read, what follows from them is what was computed by hand."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis.claims import answer_of, published_findings
from bench.analysis.law import Law, fit, law_for
from bench.analysis.replication import replicate_cell, replicate_score, replications
from bench.compose import compose_job, names
from bench.paths import published_dir
from bench.published import (
    PublishedCell,
    PublishedScore,
    architecture_of,
    cells,
    claims,
    labels,
    main,
    rows_of,
    scores,
    share_of,
    sources,
    table_of,
)
from bench.record import RunRecord, Variant
from bench.report import page
from tests.records import device, native_cell, record, server
from tests.scores import score


def published(model: str, label: str, engine: str, input_len: int) -> PublishedCell:
    [found] = [
        one for one in cells() if (one.model, one.label, one.engine, one.input_len) == (model, label, engine, input_len)
    ]
    return found


def test_every_row_has_a_known_source_and_is_read() -> None:
    rows = rows_of("speed.csv")
    assert {row["source"] for row in (*rows, *rows_of("accuracy.csv"))} == set(sources())
    unread = [row for row in rows if not row["input_len"] or not row["speed_tokens_per_s"]]
    assert len(cells()) == len(rows) - len(unread)
    assert all(row["note"] for row in unread)
    assert len(scores()) == len(rows_of("accuracy.csv"))
    for file in ("speed.csv", "accuracy.csv"):
        text = (published_dir() / file).read_text()
        assert not text.startswith("\ufeff")
        assert next(csv.reader(text.splitlines()))[0] == "source"


def test_every_published_model_that_we_offer_has_shapes_and_every_speed_of_it_is_below_the_roof() -> None:
    known = set(names("model"))
    unknown = {cell.model for cell in cells()} - known
    assert unknown == {"qwen1.5-32b-chat", "qwen2-57b-a14b-instruct"} & unknown
    for model in {cell.model for cell in cells()} & known:
        assert architecture_of(model) == compose_job([f"+model={model}"]).model.architecture
    for cell in cells():
        if cell.model in known:
            share = share_of(cell)
            assert share is not None
            assert 0 < share.of_roof < 1, cell


@pytest.mark.parametrize(
    ("label", "tpot_ms", "mbu"), [("BF16", 12.24, 31.2), ("FP8", 6.66, 31.3), ("AWQ-INT4", 6.94, 18.0)]
)
def test_qwen3_8b_on_sglang_at_input_1(label: str, tpot_ms: float, mbu: float) -> None:
    cell = published("qwen3-8b", label, "sglang", 1)
    share = share_of(cell)
    assert cell.tpot_s is not None
    assert share is not None
    assert share.mbu is not None
    assert 1e3 * cell.tpot_s == pytest.approx(tpot_ms, abs=0.005)
    assert 100 * share.mbu == pytest.approx(mbu, abs=0.05)


def test_the_traps_of_the_pages_are_handled() -> None:
    assert 129042 not in {cell.input_len for cell in cells()}
    two = published("qwen3-32b", "BF16", "sglang", 129024)
    assert two.devices == 2
    assert published("qwen3-32b", "BF16", "sglang", 63488).devices == 1
    generated = published("qwen2.5-7b-instruct", "BF16", "vllm", 6144)
    assert generated.seconds == pytest.approx(2048 / 80.70)
    both = published("qwen3-8b", "BF16", "sglang", 6144)
    assert both.seconds == pytest.approx((6144 + 2048) / 296.25)


def test_every_label_of_ours_is_a_quantization_that_we_offer() -> None:
    assert {label.quant for label in labels().values()} <= set(names("quant"))


def test_the_command_prints_what_was_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen3-8b", "--engine", "sglang"]) == 0
    text = capsys.readouterr().out
    for figure in ("31.2 %", "31.3 %", "18.0 %", "12.24 ms", "published, not measured here", "129042"):
        assert figure in text
    assert main(["qwen3-8b", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(table_of("qwen3-8b", None)))
    assert main([]) == 0
    assert "qwen3-8b" in capsys.readouterr().out.split()


def test_a_model_that_nobody_published_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qwen3-9b"]) == 2
    assert "did you mean 'qwen3-8b'?" in capsys.readouterr().err


def test_the_law_of_qwen3_in_bf16_on_h20() -> None:
    law = law_for("bf16", "sglang")
    assert law is not None
    assert len(law.residuals) == 6
    assert 1e3 * law.overhead_s == pytest.approx(1.5, abs=0.1)
    assert law.bandwidth_bytes_per_s == pytest.approx(1.38e12, rel=0.02)
    assert max(abs(one.relative) for one in law.residuals) < 0.08
    for one in law.residuals:
        found = law.predict(one.bytes_per_step)
        assert found.low < one.tpot_s < found.high


def test_a_law_needs_cells() -> None:
    assert law_for("nvfp4", "sglang") is None
    assert law_for("bf16", "attach") is None
    with pytest.raises(ValueError, match="at least 4"):
        fit([(1.0, 1.0)] * 9)


@given(
    st.floats(1e-4, 1e-2), st.floats(1e-13, 1e-11), st.lists(st.floats(1e8, 1e11), min_size=4, max_size=9, unique=True)
)
def test_a_law_without_noise_is_found(overhead: float, slope: float, sizes: list[float]) -> None:
    points = [(size, overhead + slope * size) for size in sizes]
    if max(sizes) < 1.5 * min(sizes):
        return
    (found, found_slope), _, sd = fit(points)
    assert [found + found_slope * size for size in sizes] == pytest.approx([time for _, time in points], rel=1e-6)
    assert sd < 1e-6


def test_95_of_100_further_cells_lie_within_the_interval() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([1.2e9, 3.4e9, 8e9, 15e9, 28e9, 64e9])
    within = 0
    for _ in range(2000):
        times = (1.5e-3 + sizes / 1.4e12) * (1 + 0.04 * rng.standard_normal(6))
        (overhead, slope), covariance, sd = fit(list(zip(sizes, times, strict=True)))
        law = Law(
            source="qwen3-speed", device="", peak_bytes_per_s=4e12, overhead_s=overhead, seconds_per_byte=slope,
            covariance=(covariance[0], covariance[1]), relative_sd=sd,
            residuals=law_for("bf16", "sglang").residuals,
        )  # fmt: skip
        further = float(rng.uniform(1e9, 6e10))
        found = law.predict(further)
        within += found.low < (1.5e-3 + further / 1.4e12) * (1 + 0.04 * rng.standard_normal()) < found.high
    assert 0.93 <= within / 2000 <= 0.97


def test_a_faster_device_is_taken_to_reach_the_same_share_of_its_bandwidth() -> None:
    law = law_for("bf16", "sglang")
    assert law is not None
    here, there = law.predict(16e9), law.predict(16e9, bandwidth_bytes_per_s=2 * law.peak_bytes_per_s)
    assert there.value - law.overhead_s == pytest.approx((here.value - law.overhead_s) / 2)


def measured(speed: float, *, name: str = "NVIDIA H20 96GB", trials: int = 3, devices: int = 1) -> RunRecord:
    """Return a run of Qwen3-8B in BF16 at input 1 with about ``speed`` tokens per second as Qwen counts them."""
    one = native_cell("bf16", 1, output_len=2048)
    factor = (2049 / speed) / (one.trials[0].requests[0].event_ns[-1] / 1e9)
    waves = tuple(
        trial.model_copy(
            update={
                "requests": tuple(
                    trace.model_copy(update={"event_ns": tuple(round(at * factor) for at in trace.event_ns)})
                    for trace in trial.requests
                )
            }
        )
        for trial in one.trials[:1] * trials
    )
    variant = Variant(model="qwen3-8b", quant="bf16")
    changes = {"trials": waves, "variant": variant, "engine": "sglang"}
    return record(
        "bf16",
        "qwen3-8b",
        engine="sglang",
        cells=(one.model_copy(update=changes),),
        scores=(),
        device=device(name=name, bandwidth_bytes_per_s=4e12, bandwidth_by_size=(), flops_per_s={"bf16": 148e12}),
        server=server(devices=devices, version="0.5.23"),
        spec={"model": {"title": "Qwen3-8B", "architecture": architecture_of("qwen3-8b").model_dump()}},
    )


@pytest.mark.parametrize(
    ("run", "kind", "said"),
    [
        (measured(81.73), "reproduced", "sglang 0.5.23, published with 0.4.6.post1"),
        (measured(85), "reproduced", "1.040 times"),
        (measured(95), "faster", ""),
        (measured(70), "slower", ""),
        (measured(95, trials=2), "not enough data", "at least 3"),
        (measured(190, name="NVIDIA H100 SXM"), "not comparable", "published on H20 96GB, measured on NVIDIA H100 SXM"),
        (measured(95, devices=2), "not comparable", "published on 1 devices, measured on 2"),
    ],
)
def test_a_measured_cell_is_held_against_the_published_one(run: RunRecord, kind: str, said: str) -> None:
    [(_, found)] = replications([run])
    assert found.kind == kind
    assert said in found.reason
    assert found.published.speed_tokens_per_s == 81.73
    assert (found.ratio is None) == (kind == "not comparable")
    assert found.published_of_roof == pytest.approx(0.312, abs=0.001)


def test_an_emulated_cell_repeats_nothing() -> None:
    run = measured(81.73)
    one = run.cells[0].model_copy(update={"status": "emulated"})
    assert replicate_cell(run, one, published("qwen3-8b", "BF16", "sglang", 1)).kind == "not comparable"


@pytest.mark.parametrize(("off", "kind"), [(0.0, "reproduced"), (0.2, "lower"), (-0.2, "higher")])
def test_a_score_is_held_against_the_published_one(off: float, kind: str) -> None:
    one = score("bf16", "mini-mmlu")
    theirs = PublishedScore(
        source="qwen2-quantization", model="m", quant="bf16", label="BF16", task="mmlu",
        score=one.metrics[0].value + off, bf16_score=None, n_items=14042,
    )  # fmt: skip
    found = replicate_score(one, theirs)
    assert found.kind == kind
    assert f"{one.n_items} of 14042 items" in found.reason
    unknown = theirs.model_copy(update={"n_items": None})
    assert replicate_score(one, unknown).kind == "not comparable"


@given(st.floats(-1, 2), st.floats(0, 0.5))
@settings(max_examples=200)
def test_a_claim_holds_only_where_the_whole_interval_is_in_its_range(value: float, half: float) -> None:
    [claim] = [one for one in claims() if one.id == "fp8-speed"]
    found = answer_of(claim, value, value - half, value + half)
    inside = [claim.above <= edge <= claim.below for edge in (value - half, value + half)]
    assert (found == "holds") == all(inside)
    assert answer_of(claim, value) in ("holds", "does not hold")
    if found == "does not hold":
        assert answer_of(claim, value) == "does not hold"


def test_published_figures_answer_every_claim() -> None:
    for claim in claims():
        found = published_findings(claim)
        assert found
        assert {one.claim.id for one in found} == {claim.id}
        assert not any(one.measured for one in found)
    [fp8] = [one for one in claims() if one.id == "fp8-speed"]
    at_1 = {one.model: one.value for one in published_findings(fp8) if one.where == "sglang" and one.input_len == 1}
    assert at_1["qwen3-8b"] == pytest.approx(150.25 / 81.73 - 1)
    assert at_1["qwen3-0.6b"] == pytest.approx(458.03 / 414.17 - 1)


def test_the_report_keeps_published_and_measured_apart() -> None:
    text = page.render([measured(81.73)], title="x")
    for words in ("Published by others", "published, not measured here", "reproduced", "What is said everywhere"):
        assert words in text
    assert "Published by others" not in page.render([record("bf16")], title="x")


@pytest.mark.parametrize("model", [name for name in names("model") if name.startswith("qwen3")])
def test_the_published_setting_composes_for_every_qwen3(model: str) -> None:
    spec = compose_job([f"+model={model}", "experiment=qwen3-speed-benchmark"])
    fields = spec.engine.config
    assert (spec.engine.name, fields["mem_fraction_static"], fields["context_length"]) == ("sglang", 0.85, 140000)
    assert fields["mixed_chunk"]
    assert fields["skip_tokenizer_init"]
    assert spec.context_length == 131072
    assert (spec.yarn is None) == model.endswith("-2507")
    assert spec.workload.input_lens[-1] + spec.workload.output_len == 131072
    assert not spec.accuracy.tasks


@pytest.mark.parametrize("model", [name for name in names("model") if name.startswith("qwen2")])
def test_the_published_tasks_compose_for_every_qwen2(model: str) -> None:
    spec = compose_job([f"+model={model}", "experiment=qwen2-quantization-benchmark"])
    assert set(spec.accuracy.tasks) == {"mmlu", "ceval-valid", "ifeval"}
    assert not spec.workload.input_lens
    assert math.isclose(spec.accuracy.margin, 0.01)
