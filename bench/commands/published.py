"""``quantbench published MODEL``: published speeds from other sources, as a share of the device's limit."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import format as fmt
from bench.commands.common import ends_in_one_line
from bench.console import console
from bench.errors import ConfigError, nearest
from bench.published.figures import cells, sources, table_of


def _show(rows: Sequence[dict[str, Any]], out: Console) -> None:
    for source in dict.fromkeys(row["source"] for row in rows):
        page = sources()[source]
        title = f"{page.title} · {page.hardware} · published, not measured here"
        table = Table(title=title, title_justify="left", caption=page.page, caption_justify="left")
        for heading in ("engine", "input", "quantization", "devices", "tokens/s", "TPOT", "MBU", "of roof", "note"):
            table.add_column(heading, justify="right" if heading not in ("engine", "quantization", "note") else "left")
        for row in (row for row in rows if row["source"] == source):
            tpot = "" if row["tpot_s"] is None else f"{1e3 * row['tpot_s']:.2f} ms"
            table.add_row(
                row["engine"], f"{row['input_len']:,}", row["label"], str(row["devices"]),
                f"{row['speed_tokens_per_s']:.2f}", tpot,
                *(fmt.optional(row[name], fmt.percent, "") for name in ("mbu", "of_roof")), row["remarks"],
            )  # fmt: skip
        out.print(table)
        counted = "prompt and generated" if page.counts == "all" else "generated"
        out.print(f"tokens/s counts {counted} tokens over the complete request", soft_wrap=True)
        settings = dict.fromkeys(row["setting"] for row in rows if row["source"] == source and row["setting"])
        for text in (*(f"{name}: {page.settings[name]}" for name in settings), *page.traps):
            out.print(f"note: {text}", soft_wrap=True, markup=False)


@ends_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Print the published speeds of a model and return the exit code."""
    models = sorted({cell.model for cell in cells()})
    parser = argparse.ArgumentParser(
        prog="quantbench published",
        description="Print published speeds as a share of the device's limit. Nothing is measured.",
        epilog=f"models: {', '.join(models)}",
    )
    parser.add_argument("model", nargs="?", help="such as qwen3-8b (default: list the models)")
    parser.add_argument("--engine", choices=sorted({cell.engine for cell in cells()}), help="only this engine")
    parser.add_argument("--format", choices=("text", "csv", "json"), default="text", help="text (default), csv or json")
    arguments = parser.parse_args(argv)
    if arguments.model is None:
        sys.stdout.write("\n".join(models) + "\n")
        return 0
    if arguments.model not in models:
        raise ConfigError(f"no published speeds of {arguments.model}{nearest(arguments.model, models)}")
    rows = table_of(arguments.model, arguments.engine)
    if not rows:
        known = ", ".join(dict.fromkeys(cell.engine for cell in cells() if cell.model == arguments.model))
        raise ConfigError(f"no published speeds of {arguments.model} on {arguments.engine}; known engines: {known}")
    if arguments.format == "json":
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    elif arguments.format == "csv":
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _show(rows, console())
    return 0
