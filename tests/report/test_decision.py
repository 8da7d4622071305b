"""The recommendation, the speed-up table, and the commands that re-measure a cell."""

import json

import pytest

from bench.config.compose import compose_job, jobs, with_plus
from bench.records.record import RunRecord
from bench.report.document import Table
from bench.report.page import render
from bench.report.sections import data, decision, heat
from bench.report.sections.heat import EDGES, shade
from testkit.records import (
    demo_records,
    native_cell,
    native_record,
    native_records,
    record,
    troubled_records,
    unharmed,
    with_score,
)
from tests.support.blocks import blocks_of, in_english
from tests.support.pages import Page, demo_html, rendered, rows_in, section_rows


def test_undecided_variants_are_not_recommended_over_bf16() -> None:
    html = rendered(native_records())
    assert "Keep bf16: no other variant is shown to stay within the margin. Undecided: gptq-int4" in html
    assert len(rows_in(html, "decision", "undecided")) == 4
    [best] = rows_in(html, "decision", "recommended")
    assert best.split()[0] == "bf16"


def test_a_non_inferior_variant_is_recommended() -> None:
    """The same answers as BF16's: with many items that is non-inferior."""
    base = native_record()
    many = [
        score.model_copy(
            update={
                "items": tuple(
                    item.model_copy(update={"doc_id": item.doc_id + 1000 * copy, "doc_hash": f"{item.doc_hash}{copy}"})
                    for copy in range(40)
                    for item in score.items
                )
            }
        )
        for score in base.scores
    ]
    fast = native_record(
        "fp8",
        scores=tuple(
            base_score.model_copy(update={"variant": native_record("fp8").variant, "key": f"fp8 {base_score.task}"})
            for base_score in many
        ),
    )
    html = rendered([base.model_copy(update={"scores": tuple(many)}), fast])
    assert "Use fp8: highest decode speed at 1,024 input tokens" in html
    assert rows_in(html, "decision", "fp8", "recommended", "non-inferior")


def test_without_accuracy_no_variant_is_recommended() -> None:
    html = rendered([native_record(quant, scores=()) for quant in ("bf16", "gptq-int4")])
    assert "No accuracy was measured, so no variant is recommended." in html
    assert rows_in(html, "decision", "recommended") == []
    assert len(rows_in(html, "decision", "not known", "no accuracy was measured")) == 2


def test_a_task_without_a_verdict_rules_a_variant_out_or_leaves_it_not_known() -> None:
    both = ("mini-mmlu", "mini-ceval")
    reason = "270 of 541 answers without any text"
    looping = with_score(unharmed("gptq-int4", tasks=both), "mini-ceval", status="invalid", reasons=(reason,))
    html = rendered([unharmed("bf16", tasks=both), unharmed("fp8"), looping])
    assert "Keep bf16: no other variant is shown to stay within the margin. Undecided: fp8." in html
    assert rows_in(html, "decision", "fp8", "not known", "not complete", "mini-ceval: not measured")
    assert rows_in(html, "decision", "gptq-int4", "not recommended", "not complete", f"mini-ceval: invalid ({reason})")
    chinese = rendered([unharmed("bf16", tasks=both), unharmed("fp8"), looping], lang="zh")
    assert rows_in(chinese, "decision", "fp8", "未知", "不完整", "mini-ceval：未测量")


def test_the_strictest_of_different_margins_applies_and_is_reported() -> None:
    html = rendered([unharmed("bf16"), unharmed("fp8", margin=0.02), unharmed("gptq-int4", margin=0.0001)])
    assert "The runs declare different accuracy margins (0.01 pp, 2 pp); the strictest applies here." in html
    assert "at a margin of 0.01 pp" in html
    assert rows_in(html, "decision", "fp8", "undecided")


def test_a_single_variant_has_no_decision() -> None:
    assert decision.section([record()]) is None


@pytest.mark.parametrize("place", range(len(EDGES)))
def test_a_shade_starts_at_its_edge(place: int) -> None:
    assert shade(EDGES[place]) == f"u{place + 1}"
    assert shade(EDGES[place] - 1e-9) == f"u{place}"


def test_the_speed_up_table_has_ratios_or_a_reason() -> None:
    html = rendered(native_records())
    [decoding, _] = rows_in(html, "speedup", "gptq-int4")
    assert decoding.count("1.60") == 3
    assert "1.58–1.62" in decoding
    assert 'class="n u6"' in html
    emulated = section_rows(demo_records(), "speedup", "fp8")
    assert [row.split() for row in emulated] == [["fp8", *["emulated"] * 3]] * 2
    assert 'class="n void"' in demo_html()
    [row, _] = section_rows(troubled_records(), "speedup", "fp8")
    assert row.split("\n")[1:-1] == ["fp8", "emulated", "invalid", "failed", "not supported"]


def test_lengths_missing_from_bf16_have_no_ratio() -> None:
    lonely = native_record("fp8", cells=(native_cell("fp8", 1), native_cell("fp8", 4096)))
    section = in_english(heat.section([native_record(), lonely]))
    assert section is not None
    table = next(block for block in blocks_of(section.blocks) if isinstance(block, Table))
    [row] = table.groups[0].rows
    assert [cell.text for cell in row[1:]] == ["1.40", "not measured", "not measured", "no BF16"]


def test_the_command_of_each_cell_composes_to_that_cell() -> None:
    real = native_record(command=("+model=smollm2-135m", "quant=fp8", "experiment=demo", "accuracy.limit=3"))
    for cell in real.cells:
        words = data.cell_command(real, cell).split()[3:]
        [job] = jobs(with_plus([word.strip("'") for word in words]), multirun=False)
        spec = compose_job([*job, "session=test"])
        assert [spec.workload.input_lens, spec.workload.output_len] == [(cell.input_len,), cell.output_len]
        assert spec.workload.concurrency == (cell.concurrency,)
        assert not spec.accuracy.tasks


def test_large_records_are_not_embedded_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "LARGEST", 1000)
    page = Page(render(demo_records(), title="t"))
    names = [attrs["download"] for tag, attrs in page.tags if tag == "a" and "download" in attrs]
    assert names == ["speed.csv", "accuracy.csv"]
    assert "and are not included in this page" in page.text


def test_downloads_have_what_the_page_shows() -> None:
    section = data.section(demo_records())
    text = json.dumps(
        [getattr(item, "href", "")[:30] for block in section.blocks for item in getattr(block, "items", ())]
    )
    assert text.count("data:") == 3
    assert RunRecord.model_validate_json(demo_records()[0].model_dump_json()) == demo_records()[0]
