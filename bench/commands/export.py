"""``quantbench export --format csv|json|parquet|mlflow [--results DIR]``: one row per speed cell and per score.

Missing values are empty (csv) or null (json). Times are in seconds, memory and sizes in bytes. Speeds are medians over
trials; speeds and scores are empty unless the status is ``ok`` or ``emulated``.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.commands.common import add_results, ends_in_one_line
from bench.errors import ConfigError, ToolchainError
from bench.files import write_atomic
from bench.history.find import check_results
from bench.records.record import RunRecord
from bench.records.store import Store
from bench.report.rows import COLUMNS, session_rows

FORMATS = ("csv", "json", "parquet", "mlflow")


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows and return the exit code."""
    width = max(map(len, COLUMNS)) + 2
    columns = "\n".join(f"  {name:<{width}}{text}" for name, text in COLUMNS.items())
    parser = argparse.ArgumentParser(
        prog="quantbench export",
        description="Print one row per speed cell and per score.",
        epilog=f"columns:\n{columns}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--format", choices=FORMATS, default="csv", help="csv (default), json, parquet or mlflow")
    add_results(parser)
    parser.add_argument(
        "--out", help="file to write instead of standard output; for mlflow, the address of the tracking server"
    )
    arguments = parser.parse_args(argv)
    check_results(arguments.results)
    if arguments.format == "parquet" and arguments.out is None:
        raise ConfigError("parquet is binary; give --out FILE")
    _write(Store(arguments.results), arguments.format, arguments.out)
    return 0


def _sessions(store: Store) -> Iterator[list[RunRecord]]:
    """Yield the records session by session, because the items of all sessions may not fit into memory."""
    for session in dict.fromkeys(record.session for record in store.records()):
        yield list(store.records(session))


def _write(store: Store, form: str, out: str | None) -> None:
    if form == "mlflow":
        from bench.commands.export_mlflow import log

        sys.stdout.write(f"{log(_sessions(store), out)} runs in MLflow\n")
        return
    rows = [row for session in _sessions(store) for row in session_rows(session)]
    if form == "parquet":
        content = _parquet(rows)
    elif form == "json":
        content = (json.dumps(rows, indent=1) + "\n").encode()
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    if out is None:
        sys.stdout.write(content.decode())
    else:
        write_atomic(Path(out), content)


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ToolchainError("--format parquet needs pyarrow, which is not installed: pip install pyarrow") from None
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows)), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
