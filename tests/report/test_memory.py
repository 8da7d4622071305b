"""The report's section on memory and energy: what it shows, and what it leaves out of records that do not hold it."""

from typing import Any
from xml.etree import ElementTree

import pytest

from bench.records.record import Energy, RunRecord
from bench.report.document import Cell, Figures, Mark, Section, Table
from bench.report.page import render
from bench.report.plots.memory import over_time
from bench.report.sections.memory import section
from testkit.records import demo_records, record, recorded_spec, troubled_records
from tests.support.accelerators import facts, gpu_cells, gpu_record, state
from tests.support.blocks import in_english

HOSTILE = "</style><script>alert(1)</script>"


def memory_section(*records: RunRecord) -> Section:
    memory = in_english(section(records))
    assert memory
    return memory


def table(memory: Section, caption: str) -> Table | None:
    return next((block for block in memory.blocks if isinstance(block, Table) and caption in str(block.caption)), None)


def row(memory: Section, caption: str, index: int = 0) -> dict[str, Cell]:
    shown = table(memory, caption)
    assert shown
    return dict(zip([str(head.text) for head in shown.heads], shown.groups[0].rows[index], strict=True))


def test_old_records_have_no_memory_section() -> None:
    assert section(demo_records()) is None
    assert section(troubled_records()) is None


def test_memory_of_qwen3_8b_is_computed_from_its_shapes() -> None:
    shown = row(memory_section(gpu_record()), "Memory by variant")
    assert shown["Weights in memory"].text == "16.4 GB"
    assert shown["Keys and values per token"].exact == "147456.0 bytes"
    assert shown["KV cache capacity"].text == "400,000"
    assert shown["KV cache capacity"].notes == ("59.0 GB",)
    assert shown["Peak"].text == "81.0 GB"


def test_keys_and_values_in_eight_bits_take_half() -> None:
    shown = row(memory_section(gpu_record(server=facts(kv_cache_dtype="fp8_e4m3"))), "Memory by variant")
    assert shown["Keys and values per token"].exact == "73728.0 bytes"
    assert shown["Keys and values per token"].notes == ("fp8_e4m3",)


@pytest.mark.parametrize(
    "changes",
    [
        {"server": facts(kv_cache_dtype=HOSTILE)},
        {"spec": recorded_spec()},
        {"server": facts(kv_capacity_tokens=None, weights_bytes=None), "spec": recorded_spec()},
    ],
)
def test_unknown_values_are_dashes(changes: dict[str, Any]) -> None:
    shown = row(memory_section(gpu_record(**changes)), "Memory by variant")
    assert shown["Keys and values per token"].text == "–"


def test_the_longest_cell_is_drawn_once_for_each_variant() -> None:
    memory = memory_section(gpu_record(), gpu_record("fp8"))
    (drawn,) = [block for block in memory.blocks if isinstance(block, Figures)]
    assert [figure.title for figure in drawn.items] == ["bf16", "fp8"]
    assert "1,024 tokens in" in drawn.items[0].caption
    assert "80.0 GB at the start, 81.0 GB at the peak, 80.0 GB at the end" in drawn.items[0].caption


def test_clocks_are_those_at_the_end_of_the_trials_and_throttling_is_counted() -> None:
    shown = row(memory_section(gpu_record()), "Accelerators")
    assert shown["SM clock"].text == "1,950–1,980 MHz"
    assert shown["Memory clock"].text == "2,619 MHz"
    assert shown["Temperature"].text == "58.0 °C" or shown["Temperature"].text == "58 °C"
    assert shown["Power"].text == "412 W"
    assert shown["Throttling"].text == "SwPowerCap (3 of 9 trials)"


def test_devices_without_readings_have_dashes() -> None:
    bare = state(
        sm_clock_mhz=None, memory_clock_mhz=None, temperature_celsius=None, power_w=None, memory_used_bytes=None
    )  # fmt: skip
    shown = row(memory_section(gpu_record(cells=gpu_cells("bf16", devices_after=(bare, state(1))))), "Accelerators")
    assert {name for name, column in shown.items() if column.text == "–"} == {
        "SM clock",
        "Memory clock",
        "Temperature",
        "Power",
        "Memory in use",
    }
    assert shown["Throttling"].text == "never"


def test_energy_and_cost_have_their_units() -> None:
    shown = row(memory_section(gpu_record()), "Energy and cost")
    assert shown["Power"].text.endswith(" W")
    assert shown["Energy per million output tokens"].text.endswith(" MJ")
    assert shown["Dollars per million output tokens"].text.startswith("$")
    # 1601 J for 32 tokens
    assert "median 50031250.0 J" in shown["Energy per million output tokens"].exact


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({"dollars_per_hour": None}, 4),
        ({"cells": gpu_cells("bf16", energy=None)}, 3),
        ({"cells": gpu_cells("bf16", energy=Energy(total_j=1, how="counter", valid=False))}, 3),
    ],
)
def test_empty_columns_are_left_out(changes: dict[str, Any], columns: int) -> None:
    shown = table(memory_section(gpu_record(**changes)), "Energy and cost")
    assert shown
    assert len(shown.heads) == columns


def test_without_energy_and_price_there_is_no_table_of_costs() -> None:
    memory = memory_section(gpu_record(dollars_per_hour=None, cells=gpu_cells("bf16", energy=None)))
    assert table(memory, "Energy and cost") is None


def test_emulated_figures_are_faint() -> None:
    memory = memory_section(gpu_record("fp8", cells=gpu_cells("fp8", status="emulated")))
    assert row(memory, "Memory by variant")["Peak"].faint
    assert row(memory, "Energy and cost")["Power"].faint


def test_a_price_alone_is_enough_for_costs() -> None:
    memory = memory_section(record(dollars_per_hour=0.2))
    assert table(memory, "Memory by variant") is None
    assert table(memory, "Energy and cost")


def test_open_loops_have_groups_of_their_own() -> None:
    closed = gpu_cells("bf16")[0]
    memory = memory_section(gpu_record(cells=(closed, closed.model_copy(update={"request_rate_per_s": 2.5}))))
    shown = table(memory, "Energy and cost")
    assert shown
    assert [group.title for group in shown.groups] == [
        "1 token in, 32 out, concurrency 1",
        "1 token in, 32 out, 2.5 requests per second",
    ]


def test_the_page_is_reproducible_and_its_ids_are_unique() -> None:
    records = [gpu_record(), gpu_record("fp8")]
    html = render(records, title="test")
    assert html == render(records, title="test")
    assert 'id="memory-energy"' in html
    ids = [part.partition('"')[0] for part in html.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_texts_of_a_server_are_escaped() -> None:
    cells = gpu_cells("bf16", devices_after=(state(throttled=(HOSTILE,)),))
    assert "<script>alert(1)" not in render([gpu_record(cells=cells)], title="test")


@pytest.mark.parametrize("points", [((0, 0),), ((0, 5),), ((0, 5), (10**9, 7))])
def test_a_drawing_is_svg_of_known_colours_however_few_its_points(points: tuple[tuple[int, int], ...]) -> None:
    def draw() -> str:
        top = max(used for _, used in points)
        return over_time(points, Mark(1, "s"), name="t", description="d", last_ns=points[-1][0], top_bytes=top).svg

    assert draw() == draw()
    root = ElementTree.fromstring(draw())
    assert root.get("aria-label") == "d"
    assert "#0" not in draw().replace("#t-", "")
