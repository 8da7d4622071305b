"""The load section, on records whose loads are known."""

from bench.records.record import RunRecord, SpeedCell
from bench.report.document import Figures, Table
from bench.report.page import render
from bench.report.sections.load import section
from testkit.records import cell, demo_records, record, troubled_records
from tests.support.blocks import in_english
from tests.support.loads import OBJECTIVE, load_records, loaded


def rows_of(records: list[RunRecord]) -> list[list[str]]:
    load = in_english(section(records))
    assert load is not None
    [table] = [block for block in load.blocks if isinstance(block, Table)]
    assert all(sum(column.span for column in row) == len(table.heads) for group in table.groups for row in group.rows)
    return [
        [" / ".join(map(str, (column.text, *column.notes))) for column in row]
        for group in table.groups
        for row in group.rows
    ]


def test_a_sweep_of_one_load_has_no_load_section() -> None:
    assert section(demo_records()) is None
    assert section(troubled_records()) is None


def test_a_series_is_drawn_with_its_knee_and_listed() -> None:
    records = load_records()
    load = in_english(section(records))
    assert load is not None
    figures = [block for block in load.blocks if isinstance(block, Figures)]
    assert [len(block.items) for block in figures] == [1]
    assert "concurrency 8" in figures[0].items[0].drawing.svg
    rows = rows_of(records)
    assert len(rows) == 12
    assert [row[0] for row in rows if "knee" in row[0]] == ["concurrency 8 / knee"] * 2


def test_goodput_is_shown_where_there_is_an_objective() -> None:
    records = load_records(objective=OBJECTIVE)
    load = in_english(section(records))
    assert load is not None
    [figures] = [block for block in load.blocks if isinstance(block, Figures)]
    assert len(figures.items) == 2
    assert "TTFT up to 500 ms and TPOT up to 100 ms" in figures.items[1].caption
    rows = rows_of(records)
    assert "100.0 %" in rows[0][-1]
    assert rows[5][-1] == "0.0 % / 0.0–0.0 %"
    assert ["highest goodput" in row[0] for row in rows].count(True) == 1  # fp8 never meets it


def test_a_saturated_open_loop_has_no_latencies() -> None:
    def rates(quant: str) -> tuple[SpeedCell, ...]:
        fields = {"n_requests": 100, "concurrency": 256}
        return (
            loaded(quant, 1, request_rate_per_s=1.0, **fields),
            loaded(quant, 4, request_rate_per_s=4.0, saturated="the queue grew", **fields),
            cell(quant, 256, status="not_supported", reasons=("not tried",)).model_copy(
                update={"request_rate_per_s": 8.0, **fields}
            ),
        )

    rows = rows_of([record("bf16", cells=rates("bf16"))])
    assert [row[0] for row in rows] == ["1 requests/s", "4 requests/s / saturated", "8 requests/s"]
    assert rows[1][5:9] == ["–"] * 4
    assert rows[1][3] != "–"
    assert rows[2][2] == "not tried"


def test_percentiles_appear_with_enough_requests() -> None:
    few = rows_of([record("bf16", cells=tuple(loaded("bf16", n) for n in (1, 2)))])
    assert "p90" not in few[0][5]
    many = rows_of([record("bf16", cells=tuple(loaded("bf16", n) for n in (8, 128)))])
    assert "p90" in many[0][5]
    assert "p99" not in many[0][5]
    assert "p99" in many[1][5]


def test_the_page_is_reproducible_and_has_the_section() -> None:
    records = load_records(objective=OBJECTIVE)
    page = render(records, title="load")
    assert page == render(records, title="load")
    assert 'id="load"' in page


def test_emulated_loads_are_faint_and_not_drawn() -> None:
    records = [record("fp8", cells=tuple(cell("fp8", 256, concurrency=n) for n in (1, 2, 4)))]
    load = in_english(section(records))
    assert load is not None
    assert not any(isinstance(block, Figures) for block in load.blocks)
    [table] = [block for block in load.blocks if isinstance(block, Table)]
    assert all(column.faint for group in table.groups for row in group.rows for column in row[2:])
