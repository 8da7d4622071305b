"""The sections on published figures and on claims: when they appear, and kept apart from measurements."""

import re

from bench.published.figures import claims
from bench.report import page
from bench.report.document import Details, Table
from bench.report.sections import claims as claims_section
from bench.report.sections import published as published_section
from testkit.records import demo_records, native_records, record
from tests.support.blocks import in_english
from tests.support.published import H100, measured, ours


def test_models_without_published_figures_have_neither_section() -> None:
    for records in (demo_records(), native_records()):
        assert published_section.section(records) is None
        assert claims_section.section(records) is None


def test_published_and_measured_figures_are_kept_apart() -> None:
    text = page.render([measured(81.73)], title="x")
    for words in ("Published by others", "published, not measured here", "reproduced", "Common claims, checked"):
        assert words in text
    section = in_english(published_section.section([measured(81.73)]))
    assert section is not None
    measured_table, *rest = [block for block in section.blocks if isinstance(block, Table)]
    assert not rest
    assert len(measured_table.groups[0].rows) == 1
    folded = [block for block in section.blocks if isinstance(block, Details)]
    assert [re.sub(r".*\((\d+) figures\)", r"\1", str(block.summary)) for block in folded] == ["30"]


def test_qwen3_8b_is_shown_with_its_share_of_the_bandwidth_at_input_1() -> None:
    text = page.render([measured(81.73)], title="x")
    for figure in ("12.24 ms", "31.2 %", "31.3 %", "18.0 %"):
        assert figure in text


def test_other_hardware_is_compared_by_shares_alone() -> None:
    text = page.render([measured(190, device=H100)], title="x")
    assert "only shares of the limit can be compared" in text


def test_measured_scores_are_listed_with_published_ones() -> None:
    text = page.render([record("bf16", "qwen2-7b-instruct", cells=(), scores=(ours(),))], title="x")
    assert "Measured and published scores" in text
    assert "+0.0 ± 1.1 percentage points" in text


def test_every_claim_has_a_message() -> None:
    assert {name: str(words) for name, words in claims_section.CLAIMS.items()} == {
        claim.id: claim.says for claim in claims()
    }


def test_claims_are_answered_for_each_length_of_the_reports_models_alone() -> None:
    section = in_english(claims_section.section([measured(81.73)]))
    assert section is not None
    [speed] = [block for block in section.blocks if isinstance(block, Details) and "FP8 is 50" in str(block.summary)]
    [table] = [block for block in speed.blocks if isinstance(block, Table)]
    assert [head.text for head in table.heads] == ["Variant", "1", "6,144", "14,336", "30,720", "63,488", "129,024"]
    on_sglang, on_transformers = table.groups[0].rows
    assert on_sglang[0].text == on_transformers[0].text == "qwen3-8b FP8"
    assert [cell.text for cell in on_sglang[1:]] == ["holds"] * 3 + ["does not hold"] * 3
    assert on_sglang[1].notes == ("83.8 %",)
    assert [cell.text for cell in on_transformers[5:]] == ["–", "–"], "not published"
