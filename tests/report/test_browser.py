"""The report in a real browser: no errors, no requests, fitting the screen, in light and dark mode."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from bench.records.record import RunRecord
from bench.report.plots.base import HEAT
from testkit.records import demo_records, many_records, moe_records, native_records, troubled_records
from tests.support.browser import MARKS, chromium
from tests.support.pages import written
from tests.support.program import EVERY

pytestmark = MARKS
CONTRAST = """
() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = rgb => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const rgba = parts(getComputedStyle(element).backgroundColor);
      if (rgba.length === 3 || rgba[3] === 1) return rgba;
    }
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("svg.swatch")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [parts(element.closest("svg") ? style.fill : style.color), behind(element)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.tagName} ${element.className} ${element.textContent}`);
  }
  return low;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(1200, "light"), (390, "dark"), *([(1200, "dark"), (390, "light")] if EVERY else [])],
)
@pytest.mark.parametrize(
    "records",
    [demo_records(), troubled_records(), [*moe_records(), *many_records()], native_records()],
    ids=["demo", "troubled", "layers", "native"],
)
def test_the_page_logs_nothing_and_fits(
    browser: Browser, tmp_path: Path, records: list[RunRecord], width: int, scheme: str
) -> None:
    url = written(records, tmp_path).as_uri()
    noise: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert dark == (scheme == "dark")
    assert page.evaluate(CONTRAST) == []
    assert page.locator("figure svg").first.bounding_box()["height"] > 50
    page.close()
    assert noise == []
    assert [requested for requested in requests if requested != url and not requested.startswith("data:")] == []


def test_heat_maps_follow_the_scheme_and_print_on_white(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(written(demo_records(), tmp_path).as_uri())
    colours = """() => [...document.querySelectorAll("#damage .scale path[fill*='--h']")]
        .map(path => getComputedStyle(path).fill)"""
    dark = page.evaluate(colours)
    page.emulate_media(media="print")
    printed = page.evaluate(colours)
    page.emulate_media(media="screen", color_scheme="light")
    assert dark != printed == page.evaluate(colours)
    assert len(set(dark)) == len(set(printed)) == len(HEAT)
    page.close()


def test_injected_scripts_do_not_run(browser: Browser, tmp_path: Path) -> None:
    path = written(demo_records(), tmp_path)
    path.write_text(path.read_text().replace("</main>", "<script>document.title = 'ran'</script></main>"))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.title() == "quantbench"
    page.close()
