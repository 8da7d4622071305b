"""Numbers of cells that are not ``ok`` reach no chart, no comparison and no derived export."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.analysis.comparison import compare_runs
from bench.commands.export_mlflow import metrics_of
from bench.records.record import RunRecord, SpeedCell, Status, Trial
from bench.report.claims import findings
from bench.report.decision import decision
from bench.report.document import Figures, Section
from bench.report.page import render
from bench.report.rows import session_rows
from bench.report.sections import load, speed
from testkit.records import LENGTHS, device, native_cell, native_record, paced, server
from tests.support.accelerators import gpu_cells
from tests.support.loads import OBJECTIVE, loaded

WITH_TABLES = {"summary", "speed", "load", "size", "memory-energy", "data"}
"""Sections whose tables list figures next to their status; of these only the drawings are compared."""
DRAWING = r'<svg [^>]*role="img".*?</svg>'
OTHERS: tuple[Status, ...] = ("emulated", "invalid", "not_supported", "failed")


def heavier(trial: Trial, factor: float) -> Trial:
    """Return a trial that took so many times the memory and energy."""
    return trial.model_copy(
        update={
            "peak_memory_bytes": round(factor * (trial.peak_memory_bytes or 0)),
            "memory": tuple((at_ns, round(factor * used)) for at_ns, used in trial.memory),
            "energy": trial.energy and trial.energy.model_copy(update={"total_j": factor * trial.energy.total_j}),
        }
    )


def cells(quant: str, status: Status, factor: float) -> Iterator[SpeedCell]:
    """Yield cells of each kind that a report draws, in which everything takes so many times as long and as much."""
    plain = gpu_cells(quant, "ok")
    loads = (loaded(quant, at_once, n_requests=4 * at_once, objective=OBJECTIVE) for at_once in (1, 2, 4))
    for cell in (*plain, *loads):
        trials = tuple(heavier(trial, factor) for trial in paced(cell, factor).trials)
        reasons = () if status == "ok" else ("a reason",)
        yield cell.model_copy(update={"status": status, "reasons": reasons, "trials": trials})


def records(status: Status, factor: float = 1.0) -> list[RunRecord]:
    """Return a baseline that is ``ok``, and a variant of that status."""
    facts: dict[str, Any] = {"device": device(), "server": server(), "dollars_per_hour": 3.6}
    return [
        native_record("bf16", cells=tuple(cells("bf16", "ok", 1.0)), **facts),
        native_record("fp8", cells=tuple(cells("fp8", status, factor)), **facts),
    ]


def drawn(page: str) -> dict[str, list[str]]:
    """Return what a page draws and compares, by section: all of its text, or of those with tables the drawings."""
    found = {}
    for name, body in re.findall(r'<section id="([^"]+)"(.*?)</section>', page, re.DOTALL):
        found[name] = re.findall(DRAWING, body, re.DOTALL) if name in WITH_TABLES else [body]
    return found


def drawings_in(section: Section | None) -> list[str]:
    """Return the drawings of a section."""
    blocks = section.blocks if section else ()
    return [str(figure.drawing.svg) for block in blocks if isinstance(block, Figures) for figure in block.items]


def derived(runs: list[RunRecord]) -> dict[str, Any]:
    """Return every comparison and derived export of two runs."""
    baseline, variant = runs
    return {
        "compare": compare_runs([baseline], [variant]).model_dump_json(),
        "decide": decision(runs, ["tpot@256<=1", "decode@1k>=1", "memory<=100GB"]).model_dump_json(),
        "goal": decision(runs, goal="throughput@256").model_dump_json(),
        "claims": [finding.model_dump_json() for finding in findings(runs)],
        "MLflow": metrics_of(variant),
    }


@pytest.mark.parametrize("status", ["emulated", "invalid"])
def test_charts_do_not_depend_on_numbers_that_are_not_ok(status: Status) -> None:
    pages = [drawn(render(records(status, factor), title="page")) for factor in (1.0, 1.7)]
    assert pages[0].keys() == pages[1].keys()
    for name, body in pages[0].items():
        assert body == pages[1][name], name


@pytest.mark.parametrize("status", OTHERS)
def test_comparisons_and_exports_do_not_depend_on_numbers_that_are_not_ok(status: Status) -> None:
    assert derived(records(status, 1.0)) == derived(records(status, 1.7))


def test_charts_and_comparisons_depend_on_numbers_that_are_ok() -> None:
    pages = [drawn(render(records("ok", factor), title="page")) for factor in (1.0, 1.7)]
    sections = {"speed", "load", "size", "memory-energy", "limits", "speedup", "waterfall", "decision"}
    for name in sections:
        assert pages[0][name] != pages[1][name], name
    before, after = derived(records("ok", 1.0)), derived(records("ok", 1.7))
    for name, comparison in before.items():
        assert comparison != after[name], name


@pytest.mark.parametrize("section", [speed.section, load.section])
def test_a_drawing_has_nothing_of_an_emulated_variant(section: Callable[..., Section | None]) -> None:
    both = records("emulated")
    with_variant, alone = drawings_in(section(both)), drawings_in(section(both[:1]))
    assert with_variant == alone != []
    assert drawings_in(section(both[1:])) == []


def test_raw_exports_keep_the_figures_of_emulated_cells_with_their_status() -> None:
    rows = [row for row in session_rows(records("emulated")) if row["quant"] == "fp8" and row["task"] is None]
    assert len(rows) == len(LENGTHS) + 3
    for row in rows:
        assert row["status"] == "emulated"
        assert row["output_tokens_per_s"] > 0
        assert row["peak_memory_bytes"] > 0
        assert row["joules_per_million_tokens"] is None or row["joules_per_million_tokens"] > 0
        assert row["mbu"] is None


def test_mlflow_gets_the_scores_of_an_emulated_variant_and_none_of_its_speeds() -> None:
    variant = records("emulated")[1]
    assert {name.partition("/")[0] for name in metrics_of(variant)} == {score.task for score in variant.scores}
    both = metrics_of(native_record("fp8", cells=(native_cell("fp8", 256), native_cell("fp8", 1024, status="failed"))))
    assert any(name.startswith("in256-") for name in both)
    assert not any(name.startswith("in1024-") for name in both)
