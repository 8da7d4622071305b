"""``quantbench compare``: what is compared, what is refused, and the arithmetic."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.comparison import compare_runs, unlike
from bench.analysis.judgement import UNCHANGED
from bench.analysis.speedup import ratio_of_medians
from bench.commands.compare import REFUSED, main
from bench.errors import ConfigError
from bench.published.figures import published_named
from bench.records.record import RunRecord
from testkit.records import (
    LENGTHS,
    controlled_record,
    environment,
    keep,
    native_cell,
    native_record,
    native_records,
    paced,
    unharmed,
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for record in native_records():
        keep(tmp_path, record)
    return tmp_path


def call(results: Path, *words: str) -> int:
    return main([*words, "--results", str(results)])


def test_known_ratios_are_found(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "bf16", "gptq-int4", "--format", "json") == 0
    comparison = json.loads(capsys.readouterr().out)
    assert len(comparison["cells"]) == 2 * len(LENGTHS)
    for pair in comparison["cells"]:
        assert pair["ratio"]["low"] <= 1.6 <= pair["ratio"]["high"]
        assert pair["kind"] == "faster"
    assert {pair["task"] for pair in comparison["scores"]} == {score.task for score in native_record().scores}
    assert all(pair["verdict"] for pair in comparison["scores"])


def test_the_text_output_has_names_values_and_verdicts(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(results, "bf16", "smollm2-135m/fp8") == 0
    text = capsys.readouterr().out
    assert "bf16 → fp8" in text
    assert "faster" in text
    assert "mini-mmlu" in text
    assert "Conditions differ" not in text


def test_a_run_compared_with_itself_has_no_differences(results: Path) -> None:
    record = native_record("fp8")
    comparison = compare_runs([record], [record])
    assert not comparison.unlike
    assert all(pair.ratio and pair.ratio.median == 1 and pair.kind == "no difference seen" for pair in comparison.cells)
    assert {(pair.verdict, pair.reason) for pair in comparison.scores} == {(None, UNCHANGED)}


def test_different_conditions_are_listed_and_speeds_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = native_record("fp8", run_id="other", environment=environment(hostname="bench-02", cpu_cores=4))
    file = results / "other.json"
    file.write_text(other.model_dump_json())
    assert call(results, "fp8", str(file)) == REFUSED
    output = capsys.readouterr()
    assert "machine: bench-01 / bench-02" in output.out
    assert "speed: B is faster above 1" not in output.out
    assert "accuracy: B compared with A" in output.out
    assert "--anyway" in output.err
    assert call(results, "fp8", str(file), "--anyway") == 0
    output = capsys.readouterr()
    assert "speed: B is faster above 1" in output.out
    assert "CPU: AMD EPYC 9R14, 2 cores / AMD EPYC 9R14, 4 cores" in output.out


def test_quantbenchs_version_is_not_a_condition() -> None:
    packages = environment().packages | {"quantbench": "9.9"}
    assert not unlike(native_record(), native_record(environment=environment(packages=packages)))
    packages |= {"torch": "3.0"}
    [difference] = unlike(native_record(), native_record(environment=environment(packages=packages)))
    assert str(difference) == "package torch: 2.13.0 / 3.0"


def test_the_clients_event_loop_is_a_condition() -> None:
    [difference] = unlike(native_record(), native_record(environment=environment(event_loop="asyncio")))
    assert str(difference) == "event loop of the client: uvloop / asyncio"


def test_an_interleaved_baseline_cancels_the_machines_speed() -> None:
    """On the second night the machine is 30 % slower, but the ratio of variant to baseline is the same."""
    first = controlled_record("fp8")
    slow = [tuple(paced(cell, 1.3) for cell in cells) for cells in (first.cells, first.control.cells)]  # type: ignore[union-attr]
    control = first.control and first.control.model_copy(update={"cells": slow[1]})
    second = first.model_copy(update={"cells": slow[0], "control": control})
    for pair in compare_runs([first], [second]).cells:
        assert pair.controlled
        assert pair.ratio
        assert pair.ratio.median == pytest.approx(1, abs=1e-6)
        assert pair.medians_s[1] == pytest.approx(1.3 * (pair.medians_s[0] or 0), rel=1e-6)
    alone = [record.model_copy(update={"control": None}) for record in (first, second)]
    for pair in compare_runs([alone[0]], [alone[1]]).cells:
        assert not pair.controlled
        assert pair.kind == "slower"


def test_emulated_cells_are_not_compared() -> None:
    emulated = native_record("fp8", cells=(native_cell("fp8", 256, status="emulated"),))
    for pair in compare_runs([native_record()], [emulated]).cells:
        assert pair.kind == "not compared"
        assert pair.reason == "a cell is emulated"
        assert pair.medians_s[1] is None


def test_sessions_pair_by_variant(results: Path) -> None:
    baselines = native_records()
    candidates = [record.model_copy(update={"run_id": f"b-{record.run_id}"}) for record in baselines[1:]]
    comparison = compare_runs(baselines, candidates)
    assert {pair.variants for pair in comparison.cells} == {(record.variant, record.variant) for record in candidates}


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=9), st.floats(0.2, 5))
def test_the_ratio_scales_with_its_numerator(times: list[float], factor: float) -> None:
    ratio = ratio_of_medians([factor * time for time in times], times)
    assert ratio.median == pytest.approx(factor)
    assert ratio.low <= ratio.median * (1 + 1e-9)
    assert ratio.high >= ratio.median * (1 - 1e-9)


def test_two_published_variants_are_compared_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "published:qwen3-8b/bf16@sglang", "published:qwen3-8b/fp8-block@sglang") == 0
    text = capsys.readouterr().out
    assert "published, not measured here" in text
    assert "1.838" in text


def test_measured_cells_are_compared_with_published_ones(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"input_len": 1, "output_len": 2048}
    cells = tuple(
        cell.model_copy(update=changes | {"engine": "sglang"}) for cell in [native_cell("bf16", 1, output_len=2048)]
    )
    variant = native_record().variant.model_copy(update={"model": "qwen3-8b"})
    keep(results, native_record(run_id="qwen", variant=variant, engine="sglang", cells=cells, scores=()))
    assert call(results, "published:qwen3-8b", "qwen3-8b/bf16") == 0
    text = capsys.readouterr().out
    assert "81.73" in text
    assert "not comparable" in text
    assert "only shares of the" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fp9", "bf16"), "did you mean 'fp8'?"),
        (("bf16", "published:qwen3-9b"), "did you mean 'qwen3-8b'?"),
        (("published:qwen3-8b/int3", "bf16"), "no quantization 'int3'"),
        (("published:qwen3-8b@tgi", "bf16"), "no engine 'tgi'"),
        (("bf16", "fp8", "--margin", "-1"), "--margin -1 is not a margin; write --margin 1pp (or 0.01)"),
        (("bf16", "fp8", "--margin", "1"), "--margin 1 would accept any loss; write --margin 1pp (or 0.01)"),
        (("bf16", "fp8", "--margin", "100"), "--margin 100 would accept any loss; write --margin 1pp (or 0.01)"),
        (
            ("bf16", "fp8", "--margin", "60pp"),
            "--margin 60pp is out of range: a margin is more than 0",
        ),
    ],
)
def test_wrong_names_get_one_line(
    results: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["2pp", "2%", "0.02"])
def test_a_margin_is_given_in_points_or_as_a_share(
    results: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(results, "bf16", "fp8", "--margin", text, "--format", "json") == 0
    margins = {pair["verdict"]["margin"] for pair in json.loads(capsys.readouterr().out)["scores"]}
    assert margins == {0.02}
    call(results, "bf16", "fp8", "--margin", text)
    output = capsys.readouterr().out
    assert "Accuracy margin: 2 pp, as given (the runs declare 1 pp)." in output
    assert "item by item, with a margin of 2 pp" in output


def test_without_a_margin_the_declared_one_of_b_applies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quant, margin in (("bf16", 0.01), ("fp8", 0.02)):
        keep(tmp_path, unharmed(quant, margin))
    assert call(tmp_path, "bf16", "fp8") == 0
    assert "Accuracy margin: 2 pp, as the runs declare." in capsys.readouterr().out
    assert call(tmp_path, "fp8", "bf16", "--format", "json") == 0
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["margin"] == {"value": 0.01, "origin": "declared", "declared": [0.01]}
    assert {pair["verdict"]["margin"] for pair in comparison["scores"]} == {0.01}


def test_published_names_are_models_or_sources() -> None:
    assert {cell.model for cell in published_named("qwen3-speed")} >= {"qwen3-8b", "qwen3-0.6b"}
    with pytest.raises(ConfigError):
        published_named("")


def test_an_error_names_the_damaged_file(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = results / "torn.json"
    file.write_text('{"schema_version": 5}')
    assert call(results, "bf16", str(file)) == 1
    assert f"{file} is not a run record" in capsys.readouterr().err


def test_runs_without_common_cells_or_tasks_are_reported(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare: RunRecord = native_record(run_id="bare", cells=(), scores=())
    keep(results, bare)
    assert call(results, "fp8", "bare") == 0
    assert "no speed cell and no task in common" in capsys.readouterr().out
