"""Reports read back as a browser would read them."""

from functools import cache
from html.parser import HTMLParser

from bench.record import RunRecord
from bench.report.page import render
from tests.records import demo_records


class Page(HTMLParser):
    """Collects what a browser would: tags, attributes, and the text of every table row."""

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


def page(records: list[RunRecord]) -> Page:
    return Page(render(records, title="test"))


@cache
def demo_html() -> str:
    """Return the report that ``make demo`` ends with; many tests look at it."""
    return render(demo_records(), title="t")


def demo_page() -> Page:
    return Page(demo_html())


def rows_in(html: str, id: str, *parts: str) -> list[str]:
    """Return the table rows of one section that hold all parts."""
    _, _, rest = html.partition(f'<section id="{id}"')
    return Page(rest.partition("</section>")[0]).rows_with(*parts)


def section_rows(records: list[RunRecord], id: str, *parts: str) -> list[str]:
    """Return the table rows of one section of a report on the records that hold all parts."""
    return rows_in(render(records, title="t"), id, *parts)
