"""Assembles the page: ``write(records, path, title=…)``. One file, nothing loaded from anywhere, no script."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench import __version__
from bench.record import STATUS_MEANING, RunRecord
from bench.report import format as fmt
from bench.report.sections import all_sections
from bench.report.verdicts import VERDICT_MEANING
from bench.report.view import with_baselines
from bench.store import write_atomic


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["meaning"] = STATUS_MEANING
    environment.globals["verdicts"] = VERDICT_MEANING
    return environment


def render(records: Sequence[RunRecord], *, title: str) -> str:
    """Return the page for one run or a set of runs; the same records give the same text.

    Args:
        records: one or more, in the order in which they shall be shown; runs of one model are brought together, and a
            baseline that was served beside a variant has rows of its own.
        title: heading of the page.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("a report needs at least one record")
    records = with_baselines(records)
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=title,
        sections=all_sections(records),
        sessions=list(dict.fromkeys(record.session for record in records)),
        begun=fmt.moment(min(record.started_at for record in records)),
        number=len(records),
        version=__version__,
    )


def write(records: Sequence[RunRecord], path: Path, *, title: str) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path.

    Raises:
        ValueError: there are no records.
        StoreError: the file cannot be written.
    """
    write_atomic(path, render(records, title=title))
    return path
