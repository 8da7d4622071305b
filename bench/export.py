"""``python -m bench.export --format csv|json [--results DIR]``: one row per speed cell and per score.

Columns that a row has no value for are empty (csv) or null (json). Times are seconds, memory and sizes bytes; speed
columns are medians over trials and are empty unless the cell's status is ``ok`` or ``emulated``.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import QuantbenchError
from bench.record import RunRecord, SpeedCell, TaskScore
from bench.speed.metrics import Interval, summarize
from bench.store import Store

COLUMNS = {
    "model": "name of the model's config",
    "quant": "name of the quantization's config",
    "engine": "what served it",
    "input_len": "prompt tokens of the cell",
    "output_len": "generated tokens of the cell",
    "concurrency": "requests at once",
    "status": "ok, emulated, invalid, not_supported or failed",
    "reasons": "why the status is not ok, joined by ' | '",
    "n_trials": "measured trials",
    "ttft_s": "time to first token",
    "tpot_s": "time per output token after the first",
    "decode_tokens_per_s": "1 / tpot_s",
    "prefill_tokens_per_s": "prompt tokens / ttft_s",
    "qwen_speed_tokens_per_s": "(prompt + generated tokens) / end-to-end time, as Qwen publishes it",
    "peak_memory_bytes": "highest resident memory of the server during the cell",
    "checkpoint_bytes": "all safetensors files",
    "task": "accuracy task",
    "metric": "figure of the task, as lm-eval names it",
    "value": "its value",
    "stderr": "its standard error",
    "n_items": "items scored",
    "run_id": "folder below results/runs",
}


def _middle(interval: Interval | None) -> float | None:
    return interval.median if interval else None


def _cell_row(cell: SpeedCell) -> dict[str, Any]:
    row: dict[str, Any] = {
        "input_len": cell.input_len,
        "output_len": cell.output_len,
        "concurrency": cell.concurrency,
        "status": cell.status,
        "reasons": " | ".join(cell.reasons),
        "n_trials": len(cell.trials),
    }
    summary = summarize(cell)
    if summary:
        row |= {
            "ttft_s": _middle(summary.ttft_s),
            "tpot_s": _middle(summary.tpot_s),
            "decode_tokens_per_s": _middle(summary.decode_tokens_per_s),
            "prefill_tokens_per_s": _middle(summary.prefill_tokens_per_s),
            "qwen_speed_tokens_per_s": _middle(summary.qwen_speed_tokens_per_s),
            "peak_memory_bytes": summary.peak_memory_bytes,
        }
    return row


def _score_rows(score: TaskScore) -> Iterator[dict[str, Any]]:
    common = {
        "task": score.task,
        "status": score.status,
        "reasons": " | ".join(score.reasons),
        "n_items": score.n_items,
    }
    if not score.metrics:
        yield common
    for metric in score.metrics:
        yield {**common, "metric": metric.name, "value": metric.value, "stderr": metric.stderr}


def rows(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield one row per cell and per score of a record, every column present."""
    common = {
        "model": record.variant.model,
        "quant": record.variant.quant,
        "engine": record.engine,
        "checkpoint_bytes": record.checkpoint.checkpoint_bytes if record.checkpoint else None,
        "run_id": record.run_id,
    }
    for row in [*map(_cell_row, record.cells), *(row for score in record.scores for row in _score_rows(score))]:
        whole = {**common, **row}
        yield {name: whole.get(name) for name in COLUMNS}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows and return the exit code."""
    columns = "\n".join(f"  {name:<26}{text}" for name, text in COLUMNS.items())
    parser = argparse.ArgumentParser(
        prog="quantbench export",
        description="Print one row per speed cell and per score.",
        epilog=f"columns:\n{columns}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="csv (default) or json")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args(argv)
    store = Store(arguments.results)
    if not store.runs_dir.is_dir():
        sys.stderr.write(f"error: {store.runs_dir} is not there; name the results folder with --results DIR\n")
        return 2
    try:
        found = [row for record in store.records() for row in rows(record)]
    except QuantbenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    if arguments.format == "json":
        json.dump(found, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(COLUMNS))
        writer.writeheader()
        writer.writerows(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
