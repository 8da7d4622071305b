"""The report in use: by keyboard, under accessibility rules, in print, without scripts, with hostile text."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from bench.nightly.course import replay
from bench.records.record import RunRecord
from testkit.records import QUANTS, demo_records, native_records, troubled_records
from tests.support.browser import MARKS, chromium
from tests.support.hostile import HOSTILE, hostile_record
from tests.support.nights import run as night
from tests.support.pages import written

pytestmark = MARKS
ATTACKS = (
    "<img src=x onerror=document.title='ran'>",
    "</script><script>document.title='ran'</script>",
    "</style><svg onload=document.title='ran'>",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "x" * 100_000,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def nights() -> dict[str, Any]:
    return {"smollm2-135m fp8 in256 decode": replay([night(day, -0.08 if day == 24 else 0.0) for day in range(25)])}


def opened(browser: Browser, folder: Path, records: list[RunRecord], **context: Any) -> Page:
    page = browser.new_page(**context)
    page.goto(written(records, folder, histories=nights()).as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("records", [native_records(), troubled_records()], ids=["native", "troubled"])
def test_axe_finds_nothing(browser: Browser, tmp_path: Path, records: list[RunRecord], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(browser, tmp_path, records, color_scheme=scheme, reduced_motion="reduce")
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    violations = [
        (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]][:3])
        for rule in axe.run(page).response["violations"]
    ]
    page.close()
    assert violations == []


def test_the_keyboard_reaches_everything_with_visible_focus(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, native_records())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    seen, unseen = [], []
    for _ in range(400):
        page.keyboard.press("Tab")
        what, visible = page.evaluate(
            """() => { const one = document.activeElement, style = getComputedStyle(one);
                return [one.tagName, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0]; }"""
        )
        if what == "BODY":
            break
        seen.append(what)
        if not visible:
            unseen.append(what)
    page.close()
    assert {"BUTTON", "INPUT", "SUMMARY", "A"} <= set(seen)
    assert unseen == []


def test_tables_sort_by_number_and_filter_by_words(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, native_records())
    table = page.locator("#decision table")
    goals = "() => [...document.querySelectorAll('#decision tbody tr')].map(row => parseFloat(row.cells[2].title))"
    button = table.get_by_role("button", name="Goal")
    for order, sign in (("ascending", 1), ("descending", -1)):
        button.click()
        values = page.evaluate(goals)
        assert len(values) == len(QUANTS)
        assert values == sorted(values, key=lambda value: sign * value)
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == order
    page.locator("#speed input[type=search]").fill("gptq 1,024")
    shown = page.locator("#speed tbody tr:visible")
    assert all("gptq" in text or "1,024" in text for text in shown.all_inner_texts())
    assert 0 < shown.count() < len(QUANTS) * 3
    page.close()


def test_the_page_is_complete_without_scripts(browser: Browser, tmp_path: Path) -> None:
    with_scripts = opened(browser, tmp_path, native_records())
    rows = with_scripts.locator("tr").count()
    with_scripts.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("tr").count() == rows
    assert page.locator("thead button, input").count() == 0
    context.close()


def test_a_link_leads_to_a_cell(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, native_records())
    page.goto(f"{(tmp_path / 'report.html').as_uri()}#cell-fp8-in1024-out32-c1-n1")
    assert page.locator(":target").inner_text() == "fp8"
    top, bottom, height = page.evaluate(
        "() => { const box = document.querySelector(':target').getBoundingClientRect();"
        " return [box.top, box.bottom, innerHeight]; }"
    )
    assert top > -1, "a page scrolls by whole pixels, and the cell may begin at a part of one"
    assert bottom <= height
    page.close()


def test_the_raw_records_can_be_downloaded(browser: Browser, tmp_path: Path) -> None:
    records = demo_records()
    page = opened(browser, tmp_path, records)
    with page.expect_download() as download:
        page.get_by_role("link", name="records.jsonl.gz").click()
    lines = gzip.decompress(Path(download.value.path()).read_bytes()).decode().splitlines()
    assert [RunRecord.model_validate(json.loads(line)) for line in lines] == records
    with page.expect_download() as download:
        page.get_by_role("link", name="speed.csv").click()
    assert Path(download.value.path()).read_text().startswith("run_id,model,quant,engine,input_len")
    page.close()


def test_the_page_prints_in_full(browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, demo_records())
    content = page.pdf(format="A4")
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 4
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("input[type=search]").first.is_visible()
    page.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=["img", "script", "style", "rtl", "100KB"])
def test_hostile_text_stays_text(browser: Browser, tmp_path: Path, attack: str) -> None:
    plain = hostile_record().model_dump_json()
    record = RunRecord.model_validate_json(plain.replace(json.dumps(HOSTILE)[1:-1], json.dumps(attack)[1:-1]))
    requests: list[str] = []
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.on("request", lambda request: requests.append(request.url))
    path = written([record, *demo_records()], tmp_path)
    page.goto(path.as_uri())
    assert page.title() == "quantbench"
    assert page.locator("img, body script[src], iframe").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 1000
    assert [url for url in requests if url != path.as_uri() and not url.startswith("data:")] == []
    page.close()
