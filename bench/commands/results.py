"""``quantbench results``: list, show, verify, prune and export the runs of a results folder.

``rebuild`` verifies the checksums of every run, moves damaged runs to ``RESULTS/set-aside``, lists them, and rebuilds
the index. ``prune`` only lists what it would remove unless ``--yes`` is given.
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
from bench.history.find import FORMS, open_index, records_named
from bench.history.index import MARKS, Index, RunRow, marks_of, set_aside
from bench.history.series import EpochMark
from bench.records.record import RunRecord, SpeedCell
from bench.records.store import damaged_files, is_held, partial, read_begun, sums_of
from bench.speed.figures import recorded_cell
from bench.speed.metrics import Interval


def _listing(arguments: argparse.Namespace) -> int:
    index = open_index(arguments.results)
    try:
        runs = index.runs(model=arguments.model, quant=arguments.quant, limit=arguments.limit)
    finally:
        index.close()
    heads = ("run", "model", "quant", "engine", "device", "started (UTC)", "cells", "scores", "failures", "epoch")
    rows = [
        (
            run.run_id, run.model, run.quant, run.engine, run.device or "", fmt.moment(run.started_at),
            str(run.cells), str(run.scores), str(run.failures or ""), run.epoch,
        )
        for run in runs
    ]  # fmt: skip
    console().print(table(fmt.plural(len(rows), "finished run"), heads, rows, numeric=("cells", "scores", "failures")))
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


def _print_record(record: RunRecord, folder: Path) -> None:
    out = console()
    machine = record.environment
    gpus = ", ".join(machine.gpus) or "no GPU"
    facts = (
        ("run", record.run_id),
        ("session", record.session),
        ("variant", f"{record.variant.model} {record.variant.quant}"),
        ("engine", f"{record.engine} {record.server.version if record.server else ''}".strip()),
        ("device", record.device.name if record.device else "not known"),
        ("machine", f"{machine.hostname}, {machine.cpu}, {machine.cpu_cores} cores, {gpus}"),
        ("started", f"{fmt.moment(record.started_at)} UTC"),
        ("key", record.key),
        ("checkpoint", fmt.size(record.checkpoint.checkpoint_bytes) if record.checkpoint else "none"),
        ("rerun", " ".join(("python -m bench.run", *record.command))),
        (
            "files",
            f"{folder}: {len(sums_of(folder))} with a checksum" if folder.is_dir() else "not in this results folder",
        ),
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
                "repeat" if score.repeat else "",
                score.status,
                f"{score.n_items:,}",
                ", ".join(
                    f"{metric.name} {metric.value:.4f}"
                    + (f" ± {metric.stderr:.4f}" if metric.stderr is not None else "")
                    for metric in score.metrics
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
        _print_record(record, arguments.results / "runs" / record.run_id)
    return 0


def _fault(folder: Path) -> str | None:
    """Return the problem of a run's files, or None."""
    try:
        if problems := damaged_files(folder):
            return "; ".join(problems)
        record = folder / "record.json"
        if record.exists():
            RunRecord.model_validate_json(record.read_bytes())
        else:
            partial(folder, read_begun(folder))
    except (OSError, ValidationError, StoreError) as error:
        return str(error).splitlines()[0]
    return None


def _rebuild(arguments: argparse.Namespace) -> int:
    """Verify every run and rebuild the index; exit code 1 if a run was set aside."""
    results: Path = arguments.results
    index = open_index(results)
    try:
        folders = [path for path in sorted((results / "runs").iterdir()) if path.is_dir() and not is_held(path)]
        faults = {folder.name: why for folder in folders if (why := _fault(folder))}
        for run_id, why in faults.items():
            sys.stderr.write(f"warning: {run_id}: {why}; moved to {set_aside(results, run_id)}\n")
        rebuilt = index.rebuild()
    finally:
        index.close()
    sys.stdout.write(f"{fmt.plural(rebuilt.read, 'finished run')} in the index, {len(faults)} set aside\n")
    return 1 if faults else 0


def outdated(
    rows: Sequence[RunRow], marks: Sequence[EpochMark], *, keep: int | None = None, before: datetime | None = None
) -> list[RunRow]:
    """Return the runs to remove; never one that a manually accepted epoch begins with.

    Args:
        rows: all finished runs, newest first.
        marks: manually accepted epochs.
        keep: number of newest runs to keep for each variant and engine.
        before: remove only runs that started before; with ``keep``, a run must meet both conditions.
    """
    marked = {mark.run_id for mark in marks}
    seen: Counter[tuple[str, str, str]] = Counter()
    removable = []
    for row in rows:
        key = (row.model, row.quant, row.engine)
        seen[key] += 1
        many = keep is None or seen[key] > keep
        old = before is None or datetime.fromisoformat(row.started_at) < before
        if many and old and row.run_id not in marked:
            removable.append(row)
    return removable


def _unfinished(runs_dir: Path) -> list[str]:
    folders = (folder for folder in sorted(runs_dir.iterdir()) if (folder / "run.json").exists())
    return [folder.name for folder in folders if not (folder / "record.json").exists() and not is_held(folder)]


def _prune(arguments: argparse.Namespace) -> int:
    results: Path = arguments.results
    if arguments.keep is None and arguments.older_than is None and not arguments.unfinished:
        raise ConfigError("choose the runs to remove: --keep N, --older-than DAYS or --unfinished")
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
    for leftover in results.glob(".removed-*"):  # from a removal that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    for name in names:
        _remove(results, name)
    index = Index(results)
    try:
        index.refresh()
    finally:
        index.close()
    sys.stdout.write(f"{fmt.plural(len(names), 'run')} removed\n")
    return 0


def _remove(results: Path, name: str) -> None:
    try:
        # Rename first: a concurrent reader sees the complete run or none.
        work = results / f".removed-{name}"
        (results / "runs" / name).rename(work)
        shutil.rmtree(work)
    except OSError as error:
        raise StoreError(f"cannot remove {name}: {error.strerror}") from error


def _at_least(minimum: int) -> "type[int]":
    class Number(int):
        def __new__(cls, text: str) -> "Number":
            value = super().__new__(cls, text)
            if value < minimum:
                raise argparse.ArgumentTypeError(f"at least {minimum}")
            return value

    return Number


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    root = argparse.ArgumentParser(
        prog="quantbench results",
        description="List, show, verify, prune and export the runs of a results folder.",
        epilog=f"Manually accepted epochs are stored in RESULTS/{MARKS} (see quantbench gate --accept).",
    )
    add_results(root)
    actions = root.add_subparsers(dest="action", required=True, metavar="list|show|rebuild|prune|export")
    listing = actions.add_parser("list", help="list finished runs, newest first")
    listing.add_argument("--model", help="only this model")
    listing.add_argument("--quant", help="only this quantization")
    listing.add_argument("--limit", type=_at_least(1), default=-1, help="maximum number of runs")
    listing.set_defaults(call=_listing)
    show = actions.add_parser("show", help="show everything about a run except its raw observations")
    show.add_argument("name", help=FORMS)
    show.set_defaults(call=_show)
    rebuild = actions.add_parser("rebuild", help="verify checksums, quarantine damaged runs and rebuild the index")
    rebuild.set_defaults(call=_rebuild)
    prune = actions.add_parser("prune", help="remove runs; without --yes, only list them")
    prune.add_argument(
        "--keep", type=_at_least(1), metavar="N", help="keep the newest N runs of each variant and engine"
    )
    prune.add_argument(
        "--older-than", type=_at_least(0), metavar="DAYS", help="only runs that started more than DAYS days ago"
    )
    prune.add_argument("--unfinished", action="store_true", help="interrupted runs that are not being resumed")
    prune.add_argument("--yes", action="store_true", help="remove the listed runs")
    prune.set_defaults(call=_prune)
    actions.add_parser(
        "export", help="export as csv, json, parquet or to MLflow: quantbench export --help", add_help=False
    )
    return root


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen action and return the exit code."""
    arguments, rest = parser().parse_known_args(argv)
    if arguments.action == "export":
        return export.main(["--results", str(arguments.results), *rest])
    if rest:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    code: int = arguments.call(arguments)
    return code
