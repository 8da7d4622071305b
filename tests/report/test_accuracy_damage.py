"""The sections on changed answers and on two engines."""

import pytest

from bench.records.record import ItemOutcome, RunRecord, TaskScore
from bench.report.document import Details, Figures, Verbatim
from bench.report.page import render
from bench.report.sections import accuracy_damage, accuracy_engines
from bench.report.sections import summary as summary_section
from bench.report.verdicts import on_engines
from testkit.records import QUANTS, demo_records
from testkit.scores import TASKS, score
from tests.support.blocks import blocks_of, in_english, rows_of, scored, text_of
from tests.support.pages import Page

HOSTILE = "</pre></details><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}\n\n  tail"


@pytest.fixture(scope="module")
def demo() -> list[RunRecord]:
    return demo_records()


def changed(quant: str, items: tuple[ItemOutcome, ...], task: str) -> TaskScore:
    return score(quant, task).model_copy(update={"items": items})


def test_subjects_are_sorted_by_loss_with_a_warning(demo: list[RunRecord]) -> None:
    section = in_english(accuracy_damage.section(demo))
    rows = rows_of(section, "gptq-int4 on mini-mmlu: by subject")
    deltas = [float(row[4].text.removesuffix(" pp").replace("−", "-")) for row in rows]
    assert deltas == sorted(deltas)
    assert "None of 3 subjects differs by more than chance, so the order of this table means nothing." in text_of(
        section
    )
    assert rows_of(section, "mini-ifeval: by subject") == [], "it has one subject"


def test_lost_and_gained_choices_show_both_picks_and_their_leads() -> None:
    before = score("bf16", "mini-mmlu")
    right = next(item for item in before.items if item.metrics["acc"])
    logprobs = (-0.5, -1.5, -2.0, -3.0)
    pick = (int(right.target) + 1) % 4
    picked_right = right.model_copy(
        update={"answer": right.target, "logprobs": tuple(logprobs[(n - int(right.target)) % 4] for n in range(4))}
    )
    picked_wrong = picked_right.model_copy(
        update={
            "answer": str(pick),
            "logprobs": tuple(logprobs[(n - pick) % 4] for n in range(4)),
            "metrics": {"acc": 0.0},
        }
    )
    swap = {right.doc_hash: (picked_right, picked_wrong)}
    first, second = (tuple(swap[i.doc_hash][n] if i.doc_hash in swap else i for i in before.items) for n in (0, 1))
    records = [scored("bf16", changed("bf16", first, "mini-mmlu")), scored("fp8", changed("fp8", second, "mini-mmlu"))]
    (row,) = rows_of(accuracy_damage.section(records), "items lost")
    letters = "ABCD"
    assert [cell.text for cell in row[2:5]] == [letters[int(right.target)], letters[int(right.target)], letters[pick]]
    assert row[3].notes == row[4].notes == ("by 1.0",)
    assert rows_of(accuracy_damage.section(records), "items gained") == []


def test_generated_answers_are_shown_in_full_as_text() -> None:
    before = score("bf16", "mini-ifeval")
    first = before.items[0].model_copy(update={"answer": HOSTILE, "problem": "truncated"})
    flipped = {name: 1 - value for name, value in first.metrics.items()}
    second = first.model_copy(update={"answer": f"\n{HOSTILE}2", "metrics": flipped, "problem": None})
    rest = before.items[1:]
    records = [
        scored("bf16", changed("bf16", (first, *rest), "mini-ifeval")),
        scored("fp8", changed("fp8", (second, *rest), "mini-ifeval")),
    ]
    section = in_english(accuracy_damage.section(records))
    assert section is not None
    shown = [block for block in blocks_of(section.blocks) if isinstance(block, Verbatim)]
    assert [(answer.title, answer.text) for answer in shown] == [
        ("BF16 (truncated)", HOSTILE),
        ("Variant", f"\n{HOSTILE}2"),
    ]
    html = render(records, title="t")
    assert not {"img"} & {tag for tag, _ in Page(html).tags}
    assert "&lt;/pre&gt;&lt;/details&gt;&lt;script&gt;alert(1)" in html
    assert "{{7*7}}" in html
    assert "\n\n  tail2</code></pre>" in html


def test_at_most_fifty_items_are_shown_and_the_rest_is_counted() -> None:
    before = score("bf16", "mini-mmlu", per_subject=80)
    items = tuple(item.model_copy(update={"metrics": {"acc": 0.0}}) for item in before.items)
    lost = sum(item.metrics["acc"] == 1 for item in before.items)
    records = [scored("bf16", before), scored("fp8", changed("fp8", items, "mini-mmlu"))]
    section = in_english(accuracy_damage.section(records))
    assert section is not None
    assert lost > 50
    assert len(rows_of(section, "items lost")) == 50
    assert f"{lost - 50} more are in the record of run {records[1].run_id}." in text_of(section)
    summaries = [block.summary for block in section.blocks if isinstance(block, Details)]
    assert summaries == [f"fp8 on mini-mmlu: {lost} lost, 0 gained"]


def test_scores_by_length_of_the_prompt_are_drawn_and_in_a_table(demo: list[RunRecord]) -> None:
    section = in_english(accuracy_damage.section(demo))
    rows = rows_of(section, "fp8 on mini-mmlu: by length of the prompt")
    assert len(rows) == 4
    assert sum(int(row[1].text) for row in rows) == 120
    assert section is not None
    [figures] = [block for block in section.blocks if isinstance(block, Figures)]
    assert len(figures.items) == len(TASKS)
    assert [label for _, label in figures.legend] == list(QUANTS)
    alike = [item.model_copy(update={"prompt_tokens": 300}) for item in score("bf16", "mini-mmlu").items]
    same = changed("bf16", tuple(alike), "mini-mmlu"), changed("fp8", tuple(alike), "mini-mmlu")
    equal = in_english(accuracy_damage.section([scored("bf16", same[0]), scored("fp8", same[1])]))
    assert rows_of(equal, "by length of the prompt") == []


def on_two_engines(damage: tuple[float, float], per_subject: int = 300) -> list[RunRecord]:
    return [
        scored(
            quant,
            score(quant, "mini-mmlu", engine=engine, per_subject=per_subject, damage=hurt if quant != "bf16" else 0.0),
            engine=engine,
            run_id=f"{quant} {engine}",
        )
        for engine, hurt in zip(("transformers", "vllm"), damage, strict=True)
        for quant in ("bf16", "int8-w8a8")
    ]


@pytest.mark.parametrize(
    ("damage", "source"),
    [
        ((2.0, 2.0), "the quantization"),
        ((0.0, 3.0), "the engine, at least in part"),
        ((0.02, 0.02), "undecided"),
    ],
)
def test_two_engines_show_where_a_loss_comes_from(damage: tuple[float, float], source: str) -> None:
    (row,) = rows_of(accuracy_engines.section(on_two_engines(damage)))
    assert row[1].text == source
    assert all("→" in cell.notes[-1] and "pp" in cell.text for cell in row[2:4])


def test_both_engines_need_bf16_with_the_same_settings() -> None:
    records = on_two_engines((0.5, 0.5), per_subject=20)
    assert accuracy_engines.section(records[1:]) is None
    assert accuracy_engines.section(records[:2]) is None
    other = records[2].scores[0].model_copy(update={"num_fewshot": 0})
    refused = [*records[:2], records[2].model_copy(update={"scores": (other,)}), records[3]]
    assert [str(comparison.obstacle) for comparison in on_engines(refused)] == [
        "different numbers of few-shot examples: 5 and 0"
    ]
    section = in_english(accuracy_engines.section(refused))
    assert section is not None
    assert rows_of(section) == []
    labels = [row[0].text for row in rows_of(summary_section.section(records))]
    assert labels == [f"{quant} on {engine}" for engine in ("transformers", "vllm") for quant in ("bf16", "int8-w8a8")]
