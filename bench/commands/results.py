"""``quantbench results``: what a results folder holds: list, show, check, clean up, hand over.

``rebuild`` holds every file of every run to its sum, puts runs that cannot be read into ``RESULTS/set-aside`` and names
them, and makes the index anew. ``prune`` only says what it would remove until ``--yes`` is added.
"""

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from bench import format as fmt
from bench.commands import export
from bench.commands.common import add_results, ends_in_one_line
from bench.console import console, table
from bench.errors import ConfigError, StoreError
from bench.history.find import open_index, records_named
from bench.history.index import MARKS, Index, RunRow, marks_of, set_aside
from bench.history.series import EpochMark
from bench.records.record import RunRecord, SpeedCell
from bench.records.store import damaged_files, is_held, partial, read_begun, sums_of
from bench.speed.figures import recorded_cell
from bench.speed.metrics import Interval


def _listing(arguments: argparse.Namespace) -> int:
    index = open_index(arguments.results)
    try:
        found = index.runs(model=arguments.model, quant=arguments.quant, limit=arguments.limit)
    finally:
        index.close()
    heads = ("run", "model", "quant", "engine", "device", "begun (UTC)", "cells", "scores", "failures", "epoch")
    rows = [
        (
            row.run_id, row.model, row.quant, row.engine, row.device or "", fmt.moment(row.started_at),
            str(row.cells), str(row.scores), str(row.failures or ""), row.epoch,
        )
        for row in found
    ]  # fmt: skip
    console().print(table(f"{len(rows)} ended runs", heads, rows, numeric=("cells", "scores", "failures")))
    return 0


def _interval(time_s: Interval | None) -> str:
    if time_s is None:
        return ""
    return f"{fmt.seconds(time_s.median)} ({fmt.seconds(time_s.low)} – {fmt.seconds(time_s.high)})"


def _cell_row(cell: SpeedCell) -> tuple[str, ...]:
    figures = recorded_cell(cell)
    summary = figures.recorded if figures else None
    load = f"{cell.concurrency} at once" if cell.request_rate_per_s is None else f"{cell.request_rate_per_s:g} per s"
    times_s = (summary.ttft_s, summary.tpot_s) if summary else (None, None)
    return (
        cell.variant.quant, f"{cell.input_len:,}", f"{cell.output_len:,}", load, cell.status, str(len(cell.trials)),
        *map(_interval, times_s), "; ".join(cell.reasons),
    )  # fmt: skip


def _shown(record: RunRecord, folder: Path) -> None:
    out = console()
    here = record.environment
    facts = (
        ("run", record.run_id),
        ("session", record.session),
        ("variant", f"{record.variant.model} {record.variant.quant}"),
        ("engine", f"{record.engine} {record.server.version if record.server else ''}".strip()),
        ("device", record.device.name if record.device else "not known"),
        ("machine", f"{here.hostname}, {here.cpu}, {here.cpu_cores} cores, {', '.join(here.gpus) or 'no GPU'}"),
        ("begun", f"{fmt.moment(record.started_at)} UTC"),
        ("key", record.key),
        ("checkpoint", fmt.size(record.checkpoint.checkpoint_bytes) if record.checkpoint else "none"),
        ("again", " ".join(("python -m bench.run", *record.command))),
        ("files", f"{folder}: {len(sums_of(folder))} with a sum" if folder.is_dir() else "elsewhere"),
    )
    for name, value in facts:
        out.print(f"{name:<11}{value}", markup=False, soft_wrap=True)
    cells = (*record.cells, *(record.control.cells if record.control else ()))
    if cells:
        heads = ("quant", "input", "output", "load", "status", "trials", "TTFT", "TPOT", "why")
        numeric = ("input", "output", "trials")
        out.print(table("speed, medians over trials", heads, map(_cell_row, cells), numeric=numeric))
    if record.scores:
        rows = [
            (
                score.task,
                "again" if score.repeat else "",
                score.status,
                f"{score.n_items:,}",
                ", ".join(
                    f"{one.name} {one.value:.4f}" + (f" ± {one.stderr:.4f}" if one.stderr is not None else "")
                    for one in score.metrics
                ),
                "; ".join(score.reasons),
            )
            for score in record.scores
        ]
        out.print(table("accuracy", ("task", "", "status", "items", "metrics", "why"), rows, numeric=("items",)))
    for failure in record.failures:
        out.print(f"failed in {failure.stage}: {failure.message}", markup=False, soft_wrap=True)


def _show(arguments: argparse.Namespace) -> int:
    for record in records_named(arguments.results, arguments.name):
        _shown(record, arguments.results / "runs" / record.run_id)
    return 0


def _fault(folder: Path) -> str | None:
    """Return what is wrong with a run's files; None for nothing."""
    try:
        if wrong := damaged_files(folder):
            return "; ".join(wrong)
        ended = folder / "record.json"
        if ended.exists():
            RunRecord.model_validate_json(ended.read_bytes())
        else:
            partial(folder, read_begun(folder))
    except (OSError, ValidationError, StoreError) as error:
        return str(error).splitlines()[0]
    return None


def _rebuild(arguments: argparse.Namespace) -> int:
    """Hold everything to its sums; exit code 1 where something was set aside."""
    results: Path = arguments.results
    index = open_index(results)
    try:
        folders = [one for one in sorted((results / "runs").iterdir()) if one.is_dir() and not is_held(one)]
        faults = {folder.name: why for folder in folders if (why := _fault(folder))}
        for run_id, why in faults.items():
            sys.stderr.write(f"warning: {run_id}: {why}; now at {set_aside(results, run_id)}\n")
        done = index.rebuild()
    finally:
        index.close()
    sys.stdout.write(f"{fmt.plural(done.read, 'ended run')} in the index, {len(faults)} set aside\n")
    return 1 if faults else 0


def outdated(
    rows: Sequence[RunRow], marks: Sequence[EpochMark], *, keep: int | None = None, before: datetime | None = None
) -> list[RunRow]:
    """Return the runs that may go; never one with which a person began a new epoch.

    Args:
        rows: all ended runs, newest first.
        marks: epochs that people began.
        keep: runs of each variant and engine that stay, the newest.
        before: runs that began before it may go; given both, those that both say.
    """
    marked = {mark.run_id for mark in marks}
    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for row in rows:
        key = (row.model, row.quant, row.engine)
        seen[key] += 1
        many = keep is None or seen[key] > keep
        old = before is None or datetime.fromisoformat(row.started_at) < before
        if many and old and row.run_id not in marked:
            found.append(row)
    return found


def _unfinished(runs_dir: Path) -> list[str]:
    folders = (folder for folder in sorted(runs_dir.iterdir()) if (folder / "run.json").exists())
    return [folder.name for folder in folders if not (folder / "record.json").exists() and not is_held(folder)]


def _prune(arguments: argparse.Namespace) -> int:
    results: Path = arguments.results
    if arguments.keep is None and arguments.older_than is None and not arguments.unfinished:
        raise ConfigError("say what may go: --keep N, --older-than DAYS or --unfinished")
    index = open_index(results)
    try:
        rows = index.runs()
    finally:
        index.close()
    names = _unfinished(results / "runs") if arguments.unfinished else []
    if arguments.keep is not None or arguments.older_than is not None:
        before = None if arguments.older_than is None else datetime.now(UTC) - timedelta(days=arguments.older_than)
        names += [row.run_id for row in outdated(rows, marks_of(results), keep=arguments.keep, before=before)]
    for name in names:
        sys.stdout.write(f"{name}\n")
    if not arguments.yes:
        sys.stdout.write(f"{fmt.plural(len(names), 'run')} would be removed; add --yes to remove them\n")
        return 0
    for rest in results.glob(".removed-*"):  # of a removal that was killed
        shutil.rmtree(rest, ignore_errors=True)
    for name in names:
        _remove(results, name)
    index = Index(results)
    index.refresh()
    index.close()
    sys.stdout.write(f"{fmt.plural(len(names), 'run')} removed\n")
    return 0


def _remove(results: Path, name: str) -> None:
    try:
        # Out of the way at once: whoever reads meanwhile sees a whole run or none.
        work = results / f".removed-{name}"
        (results / "runs" / name).rename(work)
        shutil.rmtree(work)
    except OSError as error:
        raise StoreError(f"cannot remove {name}: {error.strerror}") from error


def _at_least(least: int) -> "type[int]":
    class Number(int):
        def __new__(cls, text: str) -> "Number":
            value = super().__new__(cls, text)
            if value < least:
                raise argparse.ArgumentTypeError(f"at least {least}")
            return value

    return Number


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="quantbench results",
        description="List, show, check, remove and hand over what a results folder holds.",
        epilog=f"People's words about new epochs stand in RESULTS/{MARKS}; see quantbench gate --accept.",
    )
    add_results(made)
    doing = made.add_subparsers(dest="doing", required=True, metavar="list|show|rebuild|prune|export")
    listing = doing.add_parser("list", help="one line for each ended run, newest first")
    listing.add_argument("--model", help="only this model's")
    listing.add_argument("--quant", help="only this quantization's")
    listing.add_argument("--limit", type=_at_least(1), default=-1, help="at most so many")
    listing.set_defaults(call=_listing)
    show = doing.add_parser("show", help="everything of one run but its raw observations")
    show.add_argument("name", help="a run, the beginning of one, a session, MODEL/QUANT, QUANT, or a record's file")
    show.set_defaults(call=_show)
    rebuild = doing.add_parser("rebuild", help="hold every file to its sum, set aside what is damaged, index anew")
    rebuild.set_defaults(call=_rebuild)
    prune = doing.add_parser("prune", help="remove runs; says which until --yes is added")
    prune.add_argument("--keep", type=_at_least(1), metavar="N", help="keep the newest N of each variant and engine")
    prune.add_argument("--older-than", type=_at_least(0), metavar="DAYS", help="only those that began before that")
    prune.add_argument(
        "--unfinished", action="store_true", help="runs that were cut short and that nothing goes on with"
    )
    prune.add_argument("--yes", action="store_true", help="do it")
    prune.set_defaults(call=_prune)
    doing.add_parser("export", help="as csv, json, parquet, or into MLflow: quantbench export --help", add_help=False)
    return made


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Do what was asked and return the exit code."""
    arguments, rest = parser().parse_known_args(argv)
    if arguments.doing == "export":
        return export.main(["--results", str(arguments.results), *rest])
    if rest:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    code: int = arguments.call(arguments)
    return code
