"""Reports, parsed as a browser parses them."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from bench.records.record import RunRecord
from bench.report.page import render
from testkit.records import demo_records


class Page(HTMLParser):
    """Collects tags, attributes, and the text of every table row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.text = ""
        self.in_row = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.in_row = True
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_row = self.in_row and tag != "tr"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_row:
            self.rows[-1] += data

    def ids(self) -> list[str | None]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]

    def rows_with(self, *parts: str) -> list[str]:
        return [row for row in self.rows if all(part in row for part in parts)]


_rendered: dict[str, str] = {}


def rendered(records: Sequence[RunRecord], **options: Any) -> str:
    """Return the report on the records, rendered once for all tests of a process that use it."""
    options = {"title": "quantbench", **options}
    key = "\n".join([repr(sorted(options.items())), *(record.model_dump_json() for record in records)])
    if key not in _rendered:
        _rendered[key] = render(records, **options)
    return _rendered[key]


def written(records: Sequence[RunRecord], folder: Path, **options: Any) -> Path:
    """Write that report into a folder."""
    path = folder / "report.html"
    path.write_text(rendered(records, **options))
    return path


def page(records: Sequence[RunRecord]) -> Page:
    return Page(rendered(records))


def demo_html() -> str:
    """Return the report of ``make demo``, which many tests use."""
    return rendered(demo_records())


def demo_page() -> Page:
    return Page(demo_html())


def rows_in(html: str, id: str, *parts: str) -> list[str]:
    """Return the table rows of one section that contain all parts."""
    _, _, rest = html.partition(f'<section id="{id}"')
    return Page(rest.partition("</section>")[0]).rows_with(*parts)


def section_rows(records: list[RunRecord], id: str, *parts: str) -> list[str]:
    """Return the table rows of one section, in a report on the records, that contain all parts."""
    return rows_in(rendered(records), id, *parts)
