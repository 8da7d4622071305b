"""A folder of pages over all runs: an index, a page for each variant, and the newest sessions' reports."""

import json
import os
import signal
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT
from threading import Thread
from typing import Any

from rich.progress import track

from bench import __version__
from bench.console import PROGRESS
from bench.files import write_atomic
from bench.history.find import open_index, read_record
from bench.history.index import Index, RunRow, marks_of
from bench.messages.message import catalogue
from bench.nightly.nights import histories, standings
from bench.report.nights import drawn_series
from bench.report.page import title_of, write
from bench.report.site_pages import Session, VariantEntry, page_name, variant_page, write_index
from quantize.key import canonical_json, sha256_text

STATE = "made.json"
"""File of the site with a digest of what each page was made from."""


VariantKey = tuple[str, str, str]


def _digest(*parts: object) -> str:
    return sha256_text(canonical_json([__version__, *parts]))


def _sessions(rows: Iterable[RunRow]) -> list[Session]:
    """Return sessions, newest first."""
    by_session: dict[str, list[RunRow]] = {}
    for row in rows:
        by_session.setdefault(row.session, []).append(row)
    return [Session(name, tuple(reversed(own)), page_name("session", name)) for name, own in by_session.items()]


def _state(file: Path) -> dict[str, str]:
    """Return the digests of a site's pages; empty if they cannot be read, so that all pages are made again."""
    try:
        state: dict[str, str] = json.loads(file.read_text())
        [VariantEntry(**row) for row in json.loads(state["variants"])]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return state


def _prepare() -> None:
    """Leave Ctrl-C to the parent process, and exit when it does."""
    signal.signal(SIGINT, SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _make_variant(results_dir: Path, out: Path, key: VariantKey, lang: str) -> VariantEntry:
    """Write a variant's page and return its entry in the index."""
    model, quant, engine = key
    marks = marks_of(results_dir)
    index = Index(results_dir)
    try:
        rows = [row for row in index.runs(model=model, quant=quant) if row.engine == engine]
        by_series = standings(index, rows, marks)
        nights = histories(index, rows, marks, drawn_series(by_series))
    finally:
        index.close()
    return variant_page(out, key, by_series, nights, catalogue(lang))


def _make_report(results_dir: Path, out: Path, session: Session, lang: str) -> None:
    records = [read_record(results_dir / "runs" / row.run_id / "record.json") for row in session.runs]
    write(records, out / session.file, title=title_of(records), lang=lang)


def build(results_dir: Path, out: Path, *, reports: int, lang: str) -> tuple[int, int]:
    """Write the site and return (pages made, pages that were up to date).

    Args:
        results_dir: results folder.
        out: folder of the site; created if missing.
        reports: number of the newest sessions whose reports are made; older ones keep the report they have.
        lang: language of the pages.

    Raises:
        ConfigError: there are no results.
        StoreError: a record cannot be read, or a page cannot be written.
    """
    index = open_index(results_dir)
    try:
        rows, keys = index.runs(), sorted({(key.model, key.quant, key.engine) for key in index.series()})
        prints = index.fingerprints()
    finally:
        index.close()
    file = out / STATE
    before = _state(file)
    sessions = _sessions(rows)
    marks = [mark.model_dump() for mark in marks_of(results_dir)]
    wanted = {
        session.file: _digest(lang, [prints[row.run_id] for row in session.runs]) for session in sessions[:reports]
    }
    of_variant: dict[VariantKey, list[str]] = {key: [] for key in keys}
    for row in rows:
        if (row.model, row.quant, row.engine) in of_variant:
            of_variant[row.model, row.quant, row.engine].append(prints[row.run_id])
    variants = [VariantEntry.of(key) for key in keys]
    wanted |= {variant.file: _digest(lang, marks, of_variant[key]) for variant, key in zip(variants, keys, strict=True)}
    stale = {name for name, digest in wanted.items() if before.get(name) != digest or not (out / name).exists()}
    known = {row["file"]: VariantEntry(**row) for row in json.loads(before.get("variants", "[]"))}
    with ProcessPoolExecutor(os.cpu_count(), initializer=_prepare) as pool:
        variant_jobs = {
            variant.file: pool.submit(_make_variant, results_dir, out, key, lang)
            for variant, key in zip(variants, keys, strict=True)
            if variant.file in stale or variant.file not in known
        }
        report_jobs = [
            pool.submit(_make_report, results_dir, out, session, lang)
            for session in sessions[:reports]
            if session.file in stale
        ]
        waiting: list[Future[Any]] = [*variant_jobs.values(), *report_jobs]
        try:
            for job in track(waiting, "pages", console=PROGRESS, transient=True):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    variants = [
        variant_jobs[variant.file].result() if variant.file in variant_jobs else known[variant.file]
        for variant in variants
    ]
    write_index(out, [session.with_page(out) for session in sessions], variants, catalogue(lang))
    state = {**before, **wanted, "variants": json.dumps([variant.__dict__ for variant in variants])}
    write_atomic(file, json.dumps(state, indent=1))
    return len(variant_jobs) + len(report_jobs) + 1, len(wanted) - len(variant_jobs) - len(report_jobs)
