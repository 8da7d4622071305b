"""Assemble the page: ``write(records, path, title=…)``. It is one self-contained file.

Its only script sorts and filters tables; the page is complete without it. Its content security policy allows only that
script and the page's own style sheet, by their hashes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench import __version__
from bench import format as fmt
from bench.analysis.baseline import with_baselines
from bench.files import write_atomic
from bench.messages.message import Catalogue, catalogue
from bench.nightly.course import JudgedNight, standing_of
from bench.records.record import RunRecord
from bench.records.words import STATUS, STATUS_MEANING
from bench.report.nights import history_section
from bench.report.plots.labels import worded
from bench.report.sections import all_sections
from bench.report.verdicts import VERDICT, VERDICT_MEANING


@cache
def _asset(name: str) -> tuple[Markup, str]:
    """Return a file of the templates as included in the page, and its hash for the content security policy."""
    text = (Path(__file__).resolve().parent / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


@cache
def environment(words: Catalogue) -> Environment:
    """Return the Jinja environment that renders templates in the language of a catalogue."""
    jinja = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    jinja.globals["gettext"] = words.gettext
    jinja.globals["statuses"], jinja.globals["status_meaning"] = STATUS, STATUS_MEANING
    jinja.globals["verdicts"], jinja.globals["verdict_meaning"] = VERDICT, VERDICT_MEANING
    jinja.globals["lang"] = {"zh": "zh-Hans"}.get(words.lang, words.lang)
    jinja.globals["version"] = __version__
    for name in ("style.css", "script.js"):
        jinja.globals[name.partition(".")[0]], jinja.globals[f"{name.partition('.')[0]}_hash"] = _asset(name)
    jinja.filters["words"] = words
    jinja.filters["drawn"] = partial(worded, words=words)
    return jinja


def render(
    records: Sequence[RunRecord],
    *,
    title: str,
    lang: str = "en",
    histories: Mapping[str, Sequence[JudgedNight]] = MappingProxyType({}),
) -> str:
    """Return the page for one run or a set of runs; the same records give the same text.

    Args:
        records: one or more, in the order to show them; runs of one model are grouped, and a baseline that was measured
            together with a variant has rows of its own.
        title: heading of the page.
        lang: one of :data:`bench.messages.message.LANGUAGES`.
        histories: {name of a series of these runs: its nights, oldest first}.

    Raises:
        ValueError: there are no records.
    """
    return render_in(catalogue(lang), records, title=title, histories=histories)


def render_in(
    words: Catalogue,
    records: Sequence[RunRecord],
    *,
    title: str,
    histories: Mapping[str, Sequence[JudgedNight]] = MappingProxyType({}),
) -> str:
    """Return the page in the wordings of a catalogue; see :func:`render`."""
    if not records:
        raise ValueError("a report needs at least one record")
    shown = with_baselines(records)
    sections = all_sections(shown)
    nights = history_section({name: standing_of(nights) for name, nights in histories.items()}, histories)
    if nights:
        place = next((at for at, section in enumerate(sections) if section.id == "failures"), len(sections))
        sections.insert(place, nights)
    return (
        environment(words)
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=sections,
            sessions=list(dict.fromkeys(record.session for record in records)),
            begun=fmt.moment(min(record.started_at for record in records)),
            number=len(shown),
        )
    )


def write(
    records: Sequence[RunRecord],
    path: Path,
    *,
    title: str,
    lang: str = "en",
    histories: Mapping[str, Sequence[JudgedNight]] = MappingProxyType({}),
) -> Path:
    """Write the page to ``path`` atomically and return the path; see :func:`render`.

    Raises:
        ValueError: there are no records.
        StoreError: the file cannot be written.
    """
    write_atomic(path, render(records, title=title, lang=lang, histories=histories))
    return path


def title_of(records: Sequence[RunRecord]) -> str:
    """Return a report's heading."""
    models = sorted({record.spec.model.title for record in records})
    return f"quantbench · {models[0] if len(models) == 1 else f'{len(models)} models'}"
