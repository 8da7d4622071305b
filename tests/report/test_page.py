"""The report's HTML: all text escaped, every status explained, no figure without a measurement."""

import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import format as fmt
from bench.records.record import Failure, RunRecord
from bench.records.words import STATUS_MEANING
from bench.report import sections
from bench.report.page import render, write
from bench.report.sections import all_sections
from bench.report.view import runs
from quantize.plugins import names
from testkit.manifests import manifest
from testkit.records import (
    QUANTS,
    cell,
    controlled_record,
    demo_records,
    many_records,
    moe_records,
    native_cell,
    native_record,
    native_records,
    record,
    recorded_spec,
    troubled_records,
)
from testkit.scores import score
from tests.support.hostile import HOSTILE, hostile_record
from tests.support.pages import Page, demo_html, demo_page, page, rendered, rows_in, section_rows


def test_hostile_text_is_text_everywhere() -> None:
    html = render([hostile_record(), record()], title=HOSTILE)
    allowed = {tag for tag, _ in page(demo_records() + troubled_records()).tags}
    parsed = Page(html)
    assert {tag for tag, _ in parsed.tags} <= allowed
    assert not {"img", "iframe", "object"} & allowed
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert html.count("onerror=") == html.count("&lt;img src=x onerror=") > 50
    assert "7*7" in html
    assert "49<" not in html


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = demo_records()
    first = write(records, tmp_path / "new" / "a.html", title="t").read_bytes()
    assert first == write(demo_records(), tmp_path / "b.html", title="t").read_bytes()
    assert sorted(file.name for file in tmp_path.rglob("*.html")) == ["a.html", "b.html"]
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_the_page_loads_no_resources() -> None:
    html = demo_html()
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in html
    loads = [(tag, attrs) for tag, attrs in Page(html).tags if {"src", "href", "action", "srcset"} & set(attrs)]
    assert all((attrs.get("href") or "").startswith(("#", "data:")) for _, attrs in loads)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_ids_are_unique_and_references_resolve() -> None:
    parsed = demo_page()
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for _, attrs in parsed.tags if (attrs.get("href") or "").startswith("#")]
    targets += [f"#{attrs['aria-labelledby']}" for _, attrs in parsed.tags if "aria-labelledby" in attrs]
    clips = [attrs["clip-path"] for _, attrs in parsed.tags if "clip-path" in attrs]
    assert targets
    assert clips
    assert {str(target).removeprefix("#") for target in targets} <= set(ids)
    assert {str(clip)[5:-1] for clip in clips} <= set(ids)


def test_every_variant_has_its_row_in_the_summary() -> None:
    rows = {quant: rows_in(demo_html(), "summary", quant)[0] for quant in QUANTS}
    assert "269 MB" in rows["bf16"]
    assert "ok" in rows["bf16"]
    for quant in QUANTS[1:]:
        assert "emulated" in rows[quant]
        assert "tok/s" in rows[quant]
        assert "of BF16" in rows[quant]
        assert " pp" in rows[quant]
    assert "0.0338" in rows["fp8"]
    assert "89.0 %" in rows["fp8"]


def test_emulation_is_explained_if_every_quantized_variant_is_emulated() -> None:
    assert "Every quantized variant ran emulated" in demo_page().text
    native = record("fp8", cells=(cell("fp8", 256, status="ok"),), scores=(score("fp8", "mini-mmlu", status="ok"),))
    mixed = page([record(), native, record("gptq-int8")]).text
    assert "Every quantized variant ran emulated" not in mixed
    assert "must not be compared" in mixed


@pytest.mark.parametrize("status", list(STATUS_MEANING))
def test_every_status_is_shown_with_its_reason(status: Any) -> None:
    reason = f"because of {status}"
    variant = record(
        "fp8",
        cells=(cell("fp8", 777, status=status, reasons=(reason,)),),
        scores=(score("fp8", "mini-mmlu", status=status, reasons=(reason,)),),
    )
    parsed = page([variant])
    assert parsed.text.count(reason) >= 2
    assert str(STATUS_MEANING[status]) in parsed.text
    assert [attrs for _, attrs in parsed.tags if attrs.get("class") == f"badge {status}"]


@pytest.mark.parametrize("status", sorted(STATUS_MEANING.keys() - {"ok", "emulated"}))
def test_invalid_cells_have_no_figures(status: Any) -> None:
    broken = cell("fp8", 777).model_copy(update={"status": status, "reasons": ("broken",)})
    unscored = score("fp8", "mini-mmlu").model_copy(update={"status": status, "reasons": ("broken",)})
    html = render([record("fp8", cells=(broken,), scores=(unscored,), stage_durations_s={})], title="t")
    assert "tok/s" not in html
    assert not re.search(r"\d ms\b", html)
    assert " ± " not in Page(html).rows_with("fp8")[0]
    assert unscored.metrics[0].name not in Page(html).text.split()
    assert "<figure>" in html, "the checkpoint's size is still drawn"
    assert "Time to first token" not in html


@pytest.mark.parametrize(
    "records",
    [
        [record()],
        [record("fp8")],
        [record(checkpoint=None)],
        [record(cells=())],
        [record(scores=())],
        [record(cells=(), scores=())],
        [
            record(
                checkpoint=None,
                cells=(),
                scores=(),
                log=(),
                stage_durations_s={},
                engine_info={},
                spec=recorded_spec(),
                finished_at=None,
            )
        ],
        [record("awq-int4", checkpoint=None, cells=(), scores=(), failures=(Failure(stage="run", message="no"),))],
        troubled_records(),
        [record(quant, model) for model in ("smollm2-135m", "tiny-qwen3") for quant in QUANTS],
        [record(f"q{index}", scores=()) for index in range(20)],
        [record(), record(run_id="again"), record("fp8", engine="sglang")],
        [record(cells=tuple(cell("bf16", n, concurrency=c, trials=1) for n in (1, 64) for c in (1, 4)))],
        [record(cells=(cell("bf16", 256, output_len=1),))],
        [record(quant, scores=(score(quant, "group").model_copy(update={"metrics": ()}),)) for quant in QUANTS],
        moe_records(),
        native_records(),
        [controlled_record()],
        [native_record(), *demo_records()[1:]],
        many_records(),
        [*demo_records(), *moe_records()],
        [record(cells=tuple(cell("bf16", n) for n in (1, 6144, 14336, 30720, 63488, 129024)))],
    ],
    ids=lambda records: f"{len(records)} records",
)
def test_every_shape_of_records_renders(records: list[RunRecord]) -> None:
    parsed = page(records)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    assert parsed.rows_with(records[0].variant.quant)
    for each in records:
        assert each.run_id in parsed.text


def test_a_report_without_records_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        render([], title="t")


def test_failures_are_listed_with_their_messages() -> None:
    parsed = page(troubled_records())
    assert parsed.rows_with("AWQ needs 1.2 GB", "quantize", "awq-int4")
    assert parsed.rows_with("31 tokens came back", "invalid")
    assert parsed.rows_with("interrupted", "gptq-int4")
    assert 'id="failures"' not in demo_html()


def test_the_command_to_repeat_a_run_can_be_pasted() -> None:
    pasted = record(command=("+model=smollm2-135m", "quant=fp8", "accuracy.tasks=[mini-mmlu, 'it''s']"))
    text = page([pasted]).text
    assert "python -m bench.run +model=smollm2-135m quant=fp8 'accuracy.tasks=[mini-mmlu, " in text


def test_sections_come_in_the_documented_order() -> None:
    """The recommendation, the evidence, then the machine and the data."""
    ids = [section.id for section in all_sections(troubled_records())]
    assert ids[:3] == ["decision", "summary", "verdict"]
    assert ids[-4:] == ["failures", "environment", "glossary", "data"]
    assert len(ids) > 10


def test_no_two_sections_have_the_same_order() -> None:
    places = Counter(importlib.import_module(f"{sections.__name__}.{name}").ORDER for name in names(sections.__name__))
    assert [place for place, count in places.items() if count > 1] == []


def test_the_baseline_is_the_bf16_run_of_the_same_model_and_engine() -> None:
    base, other = record(), record("fp8", engine="sglang")
    paired = runs([base, record("fp8"), other, record("fp8", "tiny-qwen3"), record(run_id="again")])
    by_id = {(run.record.variant.model, run.label, run.record.engine): run.baseline for run in paired}
    assert list(by_id.values()) == [None, base, None, base, None]
    assert len({run.label for run in paired}) == len(paired)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (fmt.seconds(1.2345), "1.23 s"),
        (fmt.seconds(0.04561), "45.6 ms"),
        (fmt.seconds(0.9999), "1.00 s"),
        (fmt.seconds(2e-6), "2.00 µs"),
        (fmt.seconds(0), "0 s"),
        (fmt.rate(12.34), "12.3 tok/s"),
        (fmt.rate(14042.4), "14,042 tok/s"),
        (fmt.size(269_060_552), "269 MB"),
        (fmt.size(999_999_999), "1.00 GB"),
        (fmt.size(12), "12.0 B"),
        (fmt.space(15_190_000_000), "15.2 GB"),
        (fmt.space(81_040_000), "81.0 MB"),
        (fmt.rough_percent(0.0312), "3.1 %"),
        (fmt.rough_percent(0.312), "31 %"),
        (fmt.optional(None, fmt.percent), "–"),
        (fmt.optional(0.312, fmt.percent), "31.2 %"),
        (fmt.points_by_width(-0.01234), "−1.2"),
        (fmt.points_by_width(0.01234, 0.01, signed=False), "1.23"),
        (fmt.points_by_size(0.0026), "0.26"),
        (fmt.points_by_size(-0.0126), "−1.3"),
        (fmt.points(-0.012), "−1.2 pp"),
        (fmt.points(-0.0001), "0.0 pp"),
        (fmt.points(0.05), "+5.0 pp"),
        (fmt.between("44.1 ms", "47.2 ms"), "44.1–47.2 ms"),
        (fmt.between("999 ms", "1.01 s"), "999 ms – 1.01 s"),
        (fmt.significant(0.00381), "0.00381"),
        (fmt.plural(1, "run"), "1 run"),
        (fmt.plural(1200, "run"), "1,200 runs"),
    ],
)
def test_numbers_are_formatted(shown: str, expected: str) -> None:
    assert shown == expected


def test_canary_prompts_are_shown_with_their_source() -> None:
    (row,) = rows_in(demo_html(), "quantization", "fp8", "positions")
    assert "5.4 %source 4.3 %" in row
    assert "2.31source 2.27" in row
    assert "64.6 %of 96" in row
    assert "Repetition, entropy and same tokens" not in page(moe_records()).text, "none were run"
    assert "canary prompts were not run" in page(moe_records()).text
    mixed = [record("fp8"), record("gptq-int4", checkpoint=manifest("gptq-int4", canaries=None))]
    assert section_rows(mixed, "quantization", "gptq-int4", "positions", fmt.MISSING)


def test_a_checkpoint_shows_its_format_experts_and_proof() -> None:
    (row,) = section_rows(moe_records(), "quantization", "gptq-int4", "GB")
    assert "int4, scales per 64 columns, symmetric" in row
    assert "96.5 %" in row
    assert "12.2 s1.38 GB" in row
    assert "Experts reached" not in "".join(rows_in(demo_html(), "quantization"))
    text = page(moe_records()).text
    assert "HuggingFaceH4/ultrachat_200k@" in text
    assert "Thinking in chats" in text
    assert "Chat template hash" in text
    assert "unknown: an unmodified release" in text
    assert "Thinking in chats" not in demo_page().text, "plain text has no template"


def test_values_missing_from_older_records_are_not_invented() -> None:
    older = {"format": None, "layer_errors": (), "canaries": None, "proof_s": 0.0, "proof_peak_rss_bytes": 0}
    (row,) = section_rows([record("fp8", checkpoint=manifest("fp8", **older))], "quantization", "GB")
    assert "not recorded" in row
    assert "0 s" not in row.replace("1.84 s", "")
    assert row.strip().endswith(fmt.MISSING)
    (row,) = section_rows([record()], "quantization", "bf16", "GB")
    assert "none" in row


def test_exact_values_are_on_hover() -> None:
    titles = [attrs["title"] for _, attrs in demo_page().tags if attrs.get("title")]
    assert "269060552 bytes" in titles
    assert any(str(title).startswith("median 0.") and "n = 3" in str(title) for title in titles)


def test_figures_are_shown_with_their_physical_limit() -> None:
    rows = section_rows(native_records(), "speed", "fp8", "ok")
    assert len(rows) == 3
    assert "memoryprefill: memory" in rows[0]
    assert "7.09 %MFU 0.196 %" in rows[0]
    assert "367 tok/sTTFT 2.72 ms" in rows[0]
    rows = section_rows(native_records(), "limits", "fp8")
    assert "163 MB" in rows[0], "8.03 of 16 bits of the linear layers, and the head"
    assert "7.09 %" in rows[0]
    assert "measured with torch 2.13.0 on 2026-11-24" in page(native_records()).text


def test_records_without_a_device_have_no_limits() -> None:
    html = demo_html()
    assert 'id="limits"' not in html
    assert 'id="waterfall"' not in html
    assert "Bound by" not in html.partition('id="glossary"')[0]


def test_a_roof_is_drawn_for_every_variant() -> None:
    html = rendered(native_records())
    drawing = html.partition('<section id="limits"')[2].partition("</figure>")[0]
    assert drawing.count("stroke-dasharray") >= len(QUANTS)
    assert render(native_records(), title="quantbench") == html


def test_an_open_loop_has_its_own_group_in_the_table() -> None:
    opened = native_cell("bf16", 256, request_rate_per_s=2.5, n_requests=64)
    slots = native_cell("bf16", 256, n_requests=4)
    mixed = native_record(cells=(native_cell("bf16", 256), opened, slots))
    rows = section_rows([mixed], "speed")
    titles = [row.strip() for row in rows if "tokens in" in row]
    assert titles == [
        "256 tokens in, 32 out, concurrency 1",
        "256 tokens in, 32 out, concurrency 1, 4 requests",
        "256 tokens in, 32 out, 2.5 requests/s, 64 requests",
    ]
    alone = render([native_record(cells=(opened,))], title="t")
    speed = alone.partition('<section id="speed"')[2].partition("</section>")[0]
    assert "<figure>" not in speed
    assert "2.5 requests/s" in speed


def test_warnings_and_unproven_checks_are_listed_once_with_their_places() -> None:
    warned = {"warnings": ("trial 2 is an outlier",), "unproven": ("cached tokens",)}
    cells = tuple(native_cell("bf16", length, **warned) for length in (1, 256))
    other = native_record("fp8", cells=tuple(native_cell("fp8", length, **warned) for length in (1, 256, 1024)))
    text = page([native_record(cells=cells), other]).text
    assert "trial 2 is an outlier (bf16: 1 in, concurrency 1 and 256 in, concurrency 1; fp8: 3 cells)" in text
    assert text.count("not proven: cached tokens (bf16: ") == 1
