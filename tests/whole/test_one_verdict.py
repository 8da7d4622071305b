"""Report, ``compare``, ``decide`` and ``gate`` give the same verdict for the same runs, with one margin and family."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.paired import compare as compare_scores
from bench.analysis.verdict import Kind, Verdict, judge
from bench.commands import compare, decide, gate
from bench.records.record import ItemOutcome, Metric, RunRecord, TaskScore
from quantize.key import sha256_text
from testkit.records import keep, recorded_spec
from testkit.records import record as recorded
from testkit.scores import score
from tests.support.pages import rendered, rows_in

Kinds = dict[tuple[str, str], Kind]
ITEMS = 2000
TASKS = ("mmlu", "gsm8k", "ifeval")
LOSSES = {
    ("fp8", "mmlu"): (0, 22),  # 1.1 pp: proven above 1 pp, and inside 2 pp
    ("fp8", "gsm8k"): (10, 80),  # 3.5 pp: outside both
    ("fp8", "ifeval"): (95, 100),  # inside 2 pp on its own, but not as one of six
    ("gptq-int4", "mmlu"): (0, 26),  # 1.3 pp: the same
    ("gptq-int4", "gsm8k"): (80, 110),  # 1.5 pp: worse on its own, but not as one of six
    ("gptq-int4", "ifeval"): (95, 100),
}
"""{(quant, task): (items gained, items lost)}."""
ALONE: Kinds = {
    ("fp8", "mmlu"): "non-inferior",
    ("fp8", "gsm8k"): "worse",
    ("fp8", "ifeval"): "non-inferior",
    ("gptq-int4", "mmlu"): "non-inferior",
    ("gptq-int4", "gsm8k"): "worse",
    ("gptq-int4", "ifeval"): "non-inferior",
}
"""Verdicts at a margin of 2 pp if each were the only comparison."""
TOGETHER: Kinds = ALONE | {
    ("fp8", "ifeval"): "inconclusive",
    ("gptq-int4", "mmlu"): "worse",
    ("gptq-int4", "gsm8k"): "inconclusive",
    ("gptq-int4", "ifeval"): "inconclusive",
}
AT_ONE_POINT: Kinds = TOGETHER | {("fp8", "mmlu"): "worse"}
BEFORE, TONIGHT = "20261124T020000-1", "20261125T020000-2"


def answers(quant: str, task: str, gained: int, lost: int) -> TaskScore:
    """Return a score in which the first half of the items is right, except for those gained and lost."""
    right = [0.0] * lost + [1.0] * (ITEMS // 2 - lost + gained) + [0.0] * (ITEMS // 2 - gained)
    items = tuple(
        ItemOutcome(
            task=task, doc_id=place, doc_hash="d", prompt_hash="p", target="", answer="", logprobs=(),
            metrics={"acc": value},
        )
        for place, value in enumerate(right)
    )  # fmt: skip
    changes = {
        "items": items,
        "n_items": ITEMS,
        "metrics": (Metric(name="acc", value=sum(right) / ITEMS, stderr=None),),
        "key": sha256_text(f"{quant} {task} {gained} {lost}"),
    }
    return score(quant, task, per_subject=1, status="ok").model_copy(update=changes)


def run(quant: str, session: str, margin: float) -> RunRecord:
    """Return a run; before tonight its answers equal BF16's."""
    changed = LOSSES if session == TONIGHT else {}
    return recorded(
        quant,
        run_id=f"{session[:15]}-{quant}",
        session=session,
        key=sha256_text(f"{quant} {session}"),
        spec=recorded_spec(quant, margin=margin),
        cells=(),
        scores=tuple(answers(quant, task, *changed.get((quant, task), (0, 0))) for task in TASKS),
        started_at=f"{session[:4]}-{session[4:6]}-{session[6:8]}T02:00:00+00:00",
    )


def by_gate(results: Path) -> Kinds:
    assert gate.main(["--results", str(results)]) == 1, "something is worse"
    [entry] = (results / gate.HISTORY).read_text().splitlines()
    kinds = {}
    for line in json.loads(entry)["lines"]:
        _, quant, _, task = line["name"].split()
        kinds[quant, task] = line["reason"].partition(":")[0]
        assert (line["kind"] == "regression") == (kinds[quant, task] == "worse")
    return kinds


def by_compare(results: Path, capsys: pytest.CaptureFixture[str]) -> Kinds:
    assert compare.main([BEFORE, TONIGHT, "--results", str(results), "--format", "json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    return {
        (score["variants"][1]["quant"], score["task"]): Verdict.model_validate(score["verdict"]).kind
        for score in scores
    }


def by_decide(results: Path, capsys: pytest.CaptureFixture[str]) -> Kinds:
    decide.main(["--of", "bf16", "--of", TONIGHT, "--results", str(results), "--format", "json"])
    decision: dict[str, Any] = json.loads(capsys.readouterr().out)
    kinds = {}
    for variant in (*decision["ranked"], *decision["fallen"]):
        for words in variant["held"][0]["reason"].split("; ") if variant["label"] != "bf16" else ():
            task, kind = words.split()
            kinds[variant["label"], task] = kind
    return kinds


def by_report(records: list[RunRecord]) -> Kinds:
    page = rendered(records)
    verdicts: Kinds = {}
    for quant in ("fp8", "gptq-int4"):
        rows = rows_in(page, "verdict", quant, "Holm")
        kinds = [next(kind for kind in ("non-inferior", "worse", "inconclusive") if kind in row) for row in rows]
        verdicts |= {(quant, task): kind for task, kind in zip(TASKS, kinds, strict=True)}  # type: ignore[misc]
    return verdicts


@pytest.mark.parametrize(("margin", "expected"), [(0.02, TOGETHER), (0.01, AT_ONE_POINT)])
def test_all_commands_give_one_verdict_by_the_margin_that_the_runs_declare(
    tmp_path: Path, margin: float, expected: Kinds, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [run(quant, BEFORE, margin) for quant in ("bf16", "fp8", "gptq-int4")]
    tonight = [run(quant, TONIGHT, margin) for quant in ("fp8", "gptq-int4")]
    for record in (*before, *tonight):
        keep(tmp_path, record)
    assert by_gate(tmp_path) == expected
    capsys.readouterr()
    assert by_compare(tmp_path, capsys) == expected
    assert by_decide(tmp_path, capsys) == expected
    assert by_report([before[0], *tonight]) == expected


def test_the_number_of_comparisons_changes_the_verdict() -> None:
    verdicts: Kinds = {}
    for (quant, task), changed in LOSSES.items():
        comparison = compare_scores(answers("bf16", task, 0, 0), answers(quant, task, *changed))
        assert comparison
        verdicts[quant, task] = judge([comparison], 0.02)[0].kind
    assert verdicts == ALONE != TOGETHER
