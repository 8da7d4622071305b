"""The pages of a site: the index of all runs, and a page for each variant with its nights."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import format as fmt
from bench.files import write_atomic
from bench.history.index import RunRow
from bench.messages.message import Catalogue, Words, msg
from bench.nightly.course import ALARMS, JudgedNight, Standing
from bench.report.document import Block, Cell, Group, Head, Section, Table, Text
from bench.report.nights import history_section
from bench.report.page import environment
from quantize.key import sha256_text

SESSIONS = (
    Head(msg("head.session")),
    Head(msg("site.begun"), "UTC"),
    Head(msg("site.model")),
    Head(msg("site.variants")),
    Head(msg("head.engine")),
    Head(msg("head.device")),
    Head(msg("site.cells"), msg("site.cells.help"), numeric=True),
    Head(msg("site.scores"), msg("site.scores.help"), numeric=True),
    Head(msg("failures.title"), numeric=True),
)
VARIANTS = (
    Head(msg("head.variant")),
    Head(msg("head.engine")),
    Head(msg("head.series"), msg("site.series.help"), numeric=True),
    Head(msg("head.nights"), numeric=True),
    Head(msg("site.alarms"), msg("site.alarms.help"), numeric=True),
    Head(msg("head.last_night")),
)


def page_name(kind: str, name: str) -> str:
    """Return the file name of a page; special characters add a digest, so that no two pages share a file."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip("-.")
    return f"{kind}-{plain if plain == name else f'{plain}-{sha256_text(name)[:8]}'}.html"


@dataclass(frozen=True)
class Session:
    """Runs of one command."""

    name: str
    runs: tuple[RunRow, ...]
    """Oldest first."""
    file: str
    """File name of its report."""
    has_page: bool = False

    def with_page(self, out: Path) -> "Session":
        """Return the session with ``has_page`` set to whether its report exists."""
        return replace(self, has_page=(out / self.file).exists())


@dataclass(frozen=True)
class VariantEntry:
    """A variant on an engine, with the figures of its page."""

    model: str
    quant: str
    engine: str
    file: str
    series: int = 0
    nights: int = 0
    alarms: int = 0
    last: str = ""

    @classmethod
    def of(cls, key: tuple[str, str, str]) -> "VariantEntry":
        """Return the entry of a variant without any figures."""
        return cls(*key, file=page_name("variant", "-".join(key)))


def _write(path: Path, title: str, byline: Words, sections: Sequence[Section], words: Catalogue) -> None:
    template = environment(words).get_template("site.html.j2")
    write_atomic(path, template.render(title=title, byline=byline, sections=sections))


def variant_page(
    out: Path,
    key: tuple[str, str, str],
    standings: Mapping[str, Standing],
    nights: Mapping[str, Sequence[JudgedNight]],
    words: Catalogue,
) -> VariantEntry:
    """Write a variant's page and return its entry in the index.

    Args:
        out: folder of the site.
        key: model, quantization, engine.
        standings: of its series.
        nights: of those that are drawn.
        words: wordings of the page.
    """
    entry = replace(
        VariantEntry.of(key),
        series=len(standings),
        nights=max((standing.nights for standing in standings.values()), default=0),
        alarms=sum(standing.last.kind in ALARMS for standing in standings.values()),
        last=max((standing.last.night for standing in standings.values()), default=""),
    )
    history = history_section(standings, nights)
    empty = Section("history", msg("history.title"), [Text(msg("history.one_night"))])
    series, counted = msg("site.count.series", n=entry.series), msg("site.count.nights", n=entry.nights)
    byline = msg("site.variant.byline", engine=entry.engine, series=series, nights=counted)
    _write(out / entry.file, f"{entry.model} {entry.quant}", byline, [history or empty], words)
    return entry


def _session_row(session: Session) -> list[Cell]:
    def names(of: Callable[[RunRow], str | None]) -> str:
        return ", ".join(dict.fromkeys(of(row) or fmt.MISSING for row in session.runs))

    return [
        Cell(session.name, link=session.file if session.has_page else ""),
        Cell(fmt.moment(session.runs[0].started_at)),
        Cell(names(lambda row: row.model)),
        Cell(names(lambda row: row.quant)),
        Cell(names(lambda row: row.engine)),
        Cell(names(lambda row: row.device)),
        Cell(fmt.count(sum(row.cells for row in session.runs)), numeric=True),
        Cell(fmt.count(sum(row.scores for row in session.runs)), numeric=True),
        Cell(fmt.count(sum(row.failures for row in session.runs)), numeric=True),
    ]


def _variant_row(entry: VariantEntry) -> list[Cell]:
    return [
        Cell(f"{entry.model} {entry.quant}", link=entry.file),
        Cell(entry.engine),
        Cell(fmt.count(entry.series), numeric=True),
        Cell(fmt.count(entry.nights), numeric=True),
        Cell(fmt.count(entry.alarms), numeric=True),
        Cell(entry.last),
    ]


def write_index(out: Path, sessions: Sequence[Session], variants: Sequence[VariantEntry], words: Catalogue) -> None:
    """Write the index page.

    Args:
        out: folder of the site.
        sessions: newest first.
        variants: in any order; those with alarms are shown first.
        words: wordings of the page.
    """
    alarms_first = sorted(variants, key=lambda entry: (-entry.alarms, entry.model, entry.quant, entry.engine))
    alarms = sum(entry.alarms for entry in variants)
    lead = msg("site.lead", n=alarms) if alarms else msg("site.no_alarm")
    blocks: list[Block] = [
        Text(lead, "lead"),
        Table(msg("site.every_variant"), VARIANTS, [Group([_variant_row(entry) for entry in alarms_first])]),
    ]
    session_blocks: list[Block] = [
        Table(msg("site.caption"), SESSIONS, [Group([_session_row(session) for session in sessions])])
    ]
    sections = [
        Section("variants", msg("site.variants"), blocks),
        Section("sessions", msg("site.sessions"), session_blocks),
    ]
    runs = msg("site.count.runs", n=sum(len(session.runs) for session in sessions))
    _write(
        out / "index.html",
        "quantbench",
        msg("site.byline", runs=runs, sessions=msg("site.count.sessions", n=len(sessions))),
        sections,
        words,
    )
