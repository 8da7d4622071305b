"""What the report, the summary and the export say about accuracy."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from bench.pipeline import summary
from bench.records.record import PROBLEM_MEANING, RunRecord, TaskScore
from bench.report.document import Figures, Note, Section
from bench.report.floor import floor_s
from bench.report.rows import session_rows
from bench.report.sections import accuracy, accuracy_damage, glossary, verdict
from bench.report.sections import summary as summary_section
from bench.report.verdicts import VERDICT_MEANING, judged, noise_floors
from quantize.architecture import Architecture
from testkit.records import ARCHITECTURE, QUANTS, demo_records, device, native_record, record, recorded_spec, server
from testkit.scores import TASKS, score, work
from tests.support.blocks import in_english, rows_of, scored, text_of, words
from tests.support.pages import demo_html, demo_page, page


def pair_of(variant: TaskScore, **changes: Any) -> list[RunRecord]:
    """Return a BF16 run and a variant's run of one task."""
    items = len(variant.items) // 3 or 40
    return [scored("bf16", score("bf16", "mini-mmlu", per_subject=items), **changes), scored("fp8", variant, **changes)]


def titles_of(section: Section | None) -> str:
    assert section is not None
    return " ".join(str(block.title) for block in section.blocks if isinstance(block, Note))


@pytest.fixture(scope="module")
def demo() -> list[RunRecord]:
    return demo_records()


def test_every_variant_and_task_has_a_verdict_with_its_figures(demo: list[RunRecord]) -> None:
    rows = rows_of(verdict.section(demo))
    assert len(rows) == (len(QUANTS) - 1) * len(TASKS)
    judgements = [judgement for task in TASKS for judgement in judged(demo) if judgement.score.task == task]
    for row, judgement in zip(rows, judgements, strict=True):
        assert judgement.verdict is not None
        comparison = judgement.verdict.comparison
        text = words(row)
        assert row[1].verdict == judgement.verdict.kind
        assert str(judgement.verdict.reason) in text
        assert "over 12 comparisons" in text
        assert f"+{comparison.gained} −{comparison.lost} of {comparison.n}" in text
        assert f"loss, Holm {judgement.verdict.p_worse_holm:.3f}" in text
        assert (row[6].text == "–") == (comparison.choice_kl_nats is None)


def test_the_margin_is_a_band_and_every_row_names_its_verdict(demo: list[RunRecord]) -> None:
    section = in_english(verdict.section(demo))
    assert section is not None
    [figures] = [block for block in section.blocks if isinstance(block, Figures)]
    assert [figure.title for figure in figures.items] == list(TASKS)
    for figure in figures.items:
        assert 'fill="var(--rule)"' in figure.drawing.svg
        assert figure.drawing.svg.count(">inconclusive</text>") == len(QUANTS) - 1
        assert "gptq-int4: " in str(figure.drawing.svg).partition("aria-label=")[2].partition(">")[0]


def test_the_summary_marks_every_score_with_its_verdict(demo: list[RunRecord]) -> None:
    rows = rows_of(summary_section.section(demo))
    assert [cell.verdict for cell in rows[0]] == [None] * len(rows[0])
    for row in rows[1:]:
        assert [cell.verdict for cell in row[-3:]] == ["inconclusive"] * 3
        assert all("pp" in cell.notes[0] and "of" in cell.notes[1] for cell in row[-3:])


def test_a_badge_has_an_icon_a_word_and_its_meaning() -> None:
    badge = re.search(
        r'<span class="badge inconclusive" title="([^"]+)"><svg class="icon".*?</svg>([^<]+)<', demo_html()
    )
    assert badge
    assert badge[1] == str(VERDICT_MEANING["inconclusive"])
    assert badge[2] == "inconclusive"
    templates = Path(verdict.__file__).parents[1] / "templates"
    assert all(f'"{kind}":' in (templates / "blocks.html.j2").read_text() for kind in VERDICT_MEANING)
    assert all(f".{kind} {{" in (templates / "style.css").read_text() for kind in VERDICT_MEANING)


def test_damage_decides_between_worse_and_non_inferior() -> None:
    many: dict[str, Any] = {"task": "mini-mmlu", "per_subject": 700}
    records = [
        scored("bf16", score("bf16", **many)),
        scored("gptq-int4", score("gptq-int4", **many, damage=2.0)),
        scored("gptq-int8", score("gptq-int8", **many, damage=0.0)),
    ]
    assert [judgement.verdict.kind for judgement in judged(records) if judgement.verdict] == ["worse", "non-inferior"]
    section = in_english(verdict.section(records))
    assert "2 comparisons with BF16, at a margin of 1 pp: 1 worse, 1 non-inferior." in text_of(section)
    assert "Too few items" not in text_of(section)


def test_an_inconclusive_report_says_how_many_items_are_needed() -> None:
    text = demo_page().text
    assert "Too few items for a verdict" in text
    assert re.search(r"mini-mmlu has 120 items, so a loss below [\d.]+ pp is easily missed", text)
    assert re.search(r"about [\d,]+ items would show a loss of 1 pp", text)


def test_a_baseline_at_chance_level_is_reported() -> None:
    before = score("bf16", "mini-mmlu")
    value = sum(item.metrics["acc"] for item in before.items) / len(before.items)
    assert value > 0.35
    assert "guessing" not in titles_of(verdict.section(pair_of(score("fp8", "mini-mmlu"))))
    (metric,) = before.metrics
    low = before.model_copy(update={"metrics": (metric.model_copy(update={"value": 0.26}),)})
    section = in_english(verdict.section([scored("bf16", low), scored("fp8", score("fp8", "mini-mmlu"))]))
    assert "BF16 may be guessing" in titles_of(section)
    assert "is right 26.0 % of the time, not significantly above chance (25.0 %)" in text_of(section)


def test_runs_are_judged_together_by_the_strictest_margin_that_they_declare() -> None:
    variant = score("fp8", "mini-mmlu")
    assert [judgement.verdict.margin for judgement in judged(pair_of(variant)) if judgement.verdict] == [0.01]
    wide = pair_of(variant, spec=recorded_spec(margin=0.5))
    assert [(judgement.verdict.margin, judgement.verdict.kind) for judgement in judged(wide) if judgement.verdict] == [
        (0.5, "non-inferior")
    ]
    assert "margin of 50 pp" in text_of(verdict.section(wide))
    usual = pair_of(variant)
    mixed = [usual[0], usual[1], scored("awq-int4", variant, spec=recorded_spec(margin=0.02))]
    assert [
        (judgement.verdict.margin, judgement.verdict.comparisons) for judgement in judged(mixed) if judgement.verdict
    ] == [(0.01, 2)] * 2


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([scored("fp8", score("fp8", "mini-mmlu"))], "no BF16 run of smollm2-135m on transformers in this report"),
        ([scored("bf16"), scored("fp8", score("fp8", "mini-mmlu"))], "the BF16 run has no score of mini-mmlu"),
        (
            pair_of(score("fp8", "mini-mmlu").model_copy(update={"num_fewshot": 0})),
            "numbers of few-shot examples: 5 and 0",
        ),
        (pair_of(score("fp8", "mini-mmlu", status="failed", reasons=("NaN",))), "the variant has no score: failed"),
    ],
)
def test_scores_that_are_not_compared_have_a_reason(records: list[RunRecord], why: str) -> None:
    section = in_english(verdict.section(records))
    (row,) = rows_of(section)
    assert row[1].text.startswith("not compared: ")
    assert why in row[1].text
    assert ("NaN" in words(row)) == ("failed" in why)
    assert accuracy_damage.section(records) is None


def test_bf16_alone_has_no_verdict_and_no_damage() -> None:
    alone = [scored("bf16", score("bf16", "mini-mmlu"))]
    assert verdict.section(alone) is None
    assert accuracy_damage.section(alone) is None
    again = scored("bf16", *alone[0].scores, run_id="later")
    assert judged([*alone, again]) == (), "its score is the same, used again"


def test_unpaired_items_are_counted() -> None:
    whole = score("fp8", "mini-mmlu")
    fewer = whole.model_copy(update={"items": whole.items[:-7]})
    (row,) = rows_of(verdict.section([scored("bf16", score("bf16", "mini-mmlu")), scored("fp8", fewer)]))
    assert "7 items in only one of the two runs" in words(row)


def test_the_bf16_repeat_is_the_noise_floor_and_not_a_comparison() -> None:
    first, again = score("bf16", "mini-mmlu"), score("bf16", "mini-mmlu", repeat=1)
    records = [scored("bf16", first, again), scored("fp8", score("fp8", "mini-mmlu"))]
    variant, floor = rows_of(verdict.section(records))
    assert "when the baseline is asked again" in words(variant)
    assert "over" not in words(variant).partition("with 95 % confidence")[2][:5]
    assert floor[0].text == "bf16 again"
    assert floor[1].text == "noise floor"
    assert floor[1].verdict is None
    assert floor[-1].text == "–"
    assert "accuracy.noise_floor=true" not in text_of(verdict.section(records))
    assert "accuracy.noise_floor=true" in text_of(verdict.section(pair_of(score("fp8", "mini-mmlu"))))
    assert "bf16 again" in words(rows_of(accuracy.section(records), "every metric")[1])
    refused = scored("bf16", first, again.model_copy(update={"status": "failed", "reasons": ("it broke",)}))
    assert [str(repeat.obstacle) for repeat in noise_floors([refused])] == ["the variant has no score: failed"]
    assert "it broke" in words(rows_of(verdict.section([refused]))[0])


def test_sections_share_one_judgement(demo: list[RunRecord]) -> None:
    assert judged(demo) is judged(tuple(demo))
    assert judged(demo) is not judged(demo[:2])


def test_an_invalid_score_shows_reasons_and_counts_but_no_value() -> None:
    counts = dict.fromkeys(PROBLEM_MEANING, 0) | {"empty": 20, "truncated": 3}
    reason = "20 of 40 answers without any text (at most 10% may be)"
    bad = score("fp8", "mini-ifeval").model_copy(update={"status": "invalid", "reasons": (reason,), "counts": counts})
    records = [scored("bf16", score("bf16", "mini-ifeval")), scored("fp8", bad)]
    row = rows_of(accuracy.section(records), "every metric")[1]
    assert words(row[2:]) == f"{reason} 3 truncated, 20 empty of 40 items"
    value = f"{bad.metrics[0].value:.3f}"
    assert value not in words(rows_of(summary_section.section(records))[1])
    assert [judgement.verdict for judgement in judged(records)] == [None]
    (exported,) = [row for row in session_rows(records) if row["quant"] == "fp8"]
    assert (exported["status"], exported["value"], exported["n_items"]) == ("invalid", None, 40)


def test_problems_are_counted_and_explained_where_there_are_any(demo: list[RunRecord]) -> None:
    section = in_english(accuracy.section(demo))
    generated = rows_of(section, "mini-ifeval, task version 1: every metric")
    problems = {score.task: score.counts["truncated"] for score in demo[1].scores}
    assert f"{problems['mini-ifeval']} truncated" in words(generated[1])
    assert " none " in words(rows_of(section, "mini-mmlu, task version 1: every metric")[1])
    text = text_of(section)
    assert f"Truncated: {PROBLEM_MEANING['truncated']}." in text
    assert PROBLEM_MEANING["empty"] not in text


@pytest.mark.parametrize(("thinking", "expected"), [(True, "on"), (False, "off"), (None, "–")])
def test_thinking_is_reported(thinking: bool | None, expected: str) -> None:
    generated = score("bf16", "mini-ifeval").model_copy(update={"thinking": thinking})
    (row,) = rows_of(accuracy.section([scored("bf16", generated)]), "every metric")
    assert row[-2].text == expected


def test_work_is_reported_and_resumed_items_have_no_rate() -> None:
    whole = score("bf16", "mini-mmlu")
    (row,) = rows_of(accuracy.section([scored("bf16", whole)]), "work of the server")
    done = work(whole.items)
    assert row[1].text == f"{120 / 31.4:.2f}"
    assert [cell.text for cell in row[4:6]] == [f"{done.prompt_tokens:,}", f"{done.unique_tokens:,}"]
    assert row[6].notes == ("70.0 %",)
    resumed = whole.model_copy(update={"work": work(whole.items, resumed=30, retried=2, cached_tokens=None)})
    (row,) = rows_of(accuracy.section([scored("bf16", resumed)]), "work of the server")
    assert [row[place].text for place in (1, 6, 9, 10)] == ["–", "–", "30", "2"]
    older = whole.model_copy(update={"work": None})
    assert rows_of(accuracy.section([scored("bf16", older)]), "work of the server") == []


def test_the_floor_is_the_multiplications_of_the_unique_tokens_at_the_peak() -> None:
    whole = score("bf16", "mini-mmlu", status="ok")
    floor = floor_s(native_record(scores=(whole,)), whole)
    done, shape = work(whole.items), Architecture.model_validate(ARCHITECTURE)
    linear = 2 * shape.linear_parameters() * done.unique_tokens
    # Each prompt's unique quarter looks at all before it: 7/8 of the prompt on average.
    attention = 4 * 30 * 9 * 64 * done.unique_tokens * (done.prompt_tokens / 120) * 7 / 8
    assert floor is not None
    assert floor == pytest.approx((linear + attention) / 4e12)
    on_two = native_record(scores=(whole,), server=server(devices=2))
    assert floor_s(on_two, whole) == pytest.approx(floor / 2)
    (row,) = rows_of(accuracy.section([native_record(scores=(whole,))]), "work of the server")
    assert row[3].notes == (f"{31.4 / floor:.1f} × the floor",)


def test_the_floor_uses_the_type_that_layers_are_multiplied_in() -> None:
    emulated, native = score("fp8", "mini-mmlu"), score("fp8", "mini-mmlu", status="ok")
    with_units = device(flops_per_s={"bf16": 4e12, "fp8": 8e12, "fp32": 2e12})
    slow, fast = (floor_s(native_record("fp8", device=with_units), variant) for variant in (emulated, native))
    assert slow is not None
    assert fast is not None
    assert 1.5 < slow / fast < 2, "attention stays in 16 bits"
    in_float32 = native_record("bf16", engine_info={"dtype": "float32"})
    base = score("bf16", "mini-mmlu")
    assert (floor_s(in_float32, base) or 0) > (floor_s(native_record("bf16"), base) or 0)


@pytest.mark.parametrize("missing", ["device", "server", "shapes", "resumed", "generated", "work"])
def test_there_is_no_floor_without_the_figures_for_it(missing: str) -> None:
    whole = score("bf16", "mini-ifeval" if missing == "generated" else "mini-mmlu")
    if missing in ("resumed", "work"):
        whole = whole.model_copy(update={"work": work(whole.items, resumed=1) if missing == "resumed" else None})
    changes: dict[str, Any] = {missing: None} if missing in ("device", "server") else {}
    changes |= {"spec": recorded_spec()} if missing == "shapes" else {}
    assert floor_s(native_record(**changes), whole) is None


def test_subjects_of_a_task_are_compared_across_variants(demo: list[RunRecord]) -> None:
    rows = rows_of(accuracy.section(demo), "mini-mmlu: mean of the main metric by subject")
    assert [row[0].text for row in rows] == ["mini_mmlu_history", "mini_mmlu_law", "mini_mmlu_physics"]
    first = [item.metrics["acc"] for item in demo[0].scores[0].items if item.task == "mini_mmlu_history"]
    assert rows[0][2].text == f"{sum(first) / 40:.3f}"


def test_own_tasks_are_marked() -> None:
    assert "not comparable with those of MMLU" in demo_page().text
    official = record(scores=(score("bf16", "mini-mmlu").model_copy(update={"task": "mmlu"}),))
    assert "not comparable" not in page([official]).text


def test_every_term_is_in_the_glossary() -> None:
    terms = " ".join(str(name) for name, _ in glossary.MEASURES).lower()
    for word in ("paired difference", "clustered standard error", "mcnemar", "holm", "flip", "recovery", "choice-kl"):
        assert word in terms
    for word in ("margin", "worse", "non-inferior", "inconclusive", "mde", "noise floor", "interaction", "floor of a"):
        assert word in terms


def test_the_export_has_the_verdict_at_the_main_metric(demo: list[RunRecord]) -> None:
    rows = [row for row in session_rows(demo) if row["task"] == "mini-ifeval"]
    assert [(row["quant"], row["metric"], row["verdict"]) for row in rows[:4]] == [
        ("bf16", "prompt_level_strict_acc", None),
        ("bf16", "inst_level_strict_acc", None),
        ("fp8", "prompt_level_strict_acc", "inconclusive"),
        ("fp8", "inst_level_strict_acc", None),
    ]
    exported = rows[2]
    assert exported["delta_low"] < exported["delta"] < exported["delta_high"]
    assert exported["margin"] == 0.01
    assert exported["thinking"] is False
    file = io.StringIO()
    csv.DictWriter(file, fieldnames=list(exported)).writerow(exported)
    assert "inconclusive" in file.getvalue()


def test_the_last_repeat_of_a_run_counts(demo: list[RunRecord]) -> None:
    older = demo[1].model_copy(update={"run_id": "older"})
    rows = [row for row in session_rows([demo[0], older, demo[1]]) if row["verdict"]]
    assert {row["run_id"] for row in rows} == {demo[1].run_id}
    again = demo[0].model_copy(update={"scores": (*demo[0].scores, score("bf16", "mini-mmlu", repeat=1))})
    assert [row["repeat"] for row in session_rows([again]) if row["task"] == "mini-mmlu"] == [0, 1]


def test_the_terminal_summary_shows_the_verdict(
    demo: list[RunRecord], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    failed = scored("awq-int4", score("awq-int4", "mini-mmlu", status="failed", reasons=("no",)))
    summary.show([*demo[:2], failed], Path("report.html"))
    lines = capsys.readouterr().out.splitlines()
    base, variant, broken = (next(line for line in lines if quant in line) for quant in ("bf16", "fp8", "awq-int4"))
    assert variant.count("inconclusive") == 3
    assert re.search(r"\(.*pp, inconclusive\)", variant)
    assert "inconclusive" not in base
    assert "failed" in broken
