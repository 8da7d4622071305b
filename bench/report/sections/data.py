"""Downloads of all data, and the commands that re-measure each cell."""

import base64
import csv
import gzip
import io
import shlex
from collections.abc import Callable, Sequence

from bench import format as fmt
from bench.analysis.baseline import is_control
from bench.messages.message import msg
from bench.records.record import RunRecord, SpeedCell
from bench.report.document import Block, Cell, Details, Download, Downloads, Group, Head, Section, Table, Text
from bench.report.shapes import short_words
from bench.report.view import Run, cell_anchor, runs
from bench.speed.figures import recorded_cell
from bench.speed.metrics import CellSummary, Interval
from bench.speed.shapes import shape_of

ORDER = 75

LARGEST = 700_000
"""Maximum size of the compressed raw records in a page, in bytes; without them it still has every figure."""
CELLS = (
    "run_id", "model", "quant", "engine", "input_len", "output_len", "concurrency", "request_rate_per_s", "n_requests",
    "status", "n_trials", "figure", "unit", "median", "low", "high",
)  # fmt: skip
FIGURES: dict[str, tuple[str, Callable[[CellSummary], Interval | None]]] = {
    "ttft_s": ("s", lambda summary: summary.ttft_s),
    "tpot_s": ("s", lambda summary: summary.tpot_s),
    "decode_tokens_per_s": ("tokens/s", lambda summary: summary.decode_tokens_per_s),
    "prefill_tokens_per_s": ("tokens/s", lambda summary: summary.prefill_tokens_per_s),
    "e2e_s": ("s", lambda summary: summary.e2e_s),
    "output_tokens_per_s": ("tokens/s", lambda summary: summary.output_tokens_per_s),
    "qwen_speed_tokens_per_s": ("tokens/s", lambda summary: summary.qwen_speed_tokens_per_s),
}
"""{column: (unit, figure)}."""
SCORES = ("run_id", "model", "quant", "engine", "task", "repeat", "status", "metric", "value", "stderr", "n_items")


def _csv(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return text.getvalue().encode()


def _speed(records: Sequence[RunRecord]) -> bytes:
    rows: list[list[object]] = []
    for record in records:
        for cell in record.cells:
            start: list[object] = [
                record.run_id, record.variant.model, record.variant.quant, record.engine, cell.input_len,
                cell.output_len, cell.concurrency, cell.request_rate_per_s, cell.n_requests, cell.status,
            ]  # fmt: skip
            listed = recorded_cell(cell)
            known = [
                (name, unit, value)
                for name, (unit, figure) in FIGURES.items()
                if listed and (value := figure(listed.recorded)) is not None
            ]
            rows += [[*start, value.n, name, unit, value.median, value.low, value.high] for name, unit, value in known]
            if not known:
                rows.append([*start, len(cell.trials), None, None, None, None, None])
    return _csv(CELLS, rows)


def _accuracy(records: Sequence[RunRecord]) -> bytes:
    rows = []
    for record in records:
        for score in record.scores:
            start = [record.run_id, record.variant.model, record.variant.quant, record.engine, score.task, score.repeat]
            for metric in score.metrics or (None,):
                figures = (metric.name, metric.value, metric.stderr) if metric else (None, None, None)
                rows.append([*start, score.status, *figures, score.n_items])
    return _csv(SCORES, rows)


def _href(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _downloads(records: Sequence[RunRecord]) -> list[Block]:
    own = [record for record in records if not is_control(record)]
    items = []
    if any(record.cells for record in records):
        items.append(Download("speed.csv", msg("data.speed"), _href("text/csv", _speed(records))))
    if any(record.scores for record in records):
        items.append(Download("accuracy.csv", msg("data.accuracy"), _href("text/csv", _accuracy(records))))
    lines = "".join(f"{record.model_dump_json()}\n" for record in own).encode()
    packed = gzip.compress(lines, compresslevel=6, mtime=0)
    blocks: list[Block] = []
    if len(packed) <= LARGEST:
        items.append(Download("records.jsonl.gz", msg("data.records"), _href("application/gzip", packed)))
    else:
        blocks.append(Text(msg("data.too_large", size=fmt.size(len(packed))), "small"))
    return [Downloads(items), *blocks]


def cell_command(record: RunRecord, cell: SpeedCell) -> str:
    """Return the command that re-measures one cell and nothing else."""
    words = [*record.command, f"workload.input_lens=[{cell.input_len}]", f"workload.output_len={cell.output_len}"]
    if cell.request_rate_per_s is None:
        words += [f"workload.concurrency=[{cell.concurrency}]", "workload.request_rates=[]"]
    else:
        words += [f"workload.request_rates=[{cell.request_rate_per_s:g}]", "workload.concurrency=[]"]
    return shlex.join(["python", "-m", "bench.run", *words, "accuracy=none"])


def _commands(everything: Sequence[Run]) -> Details:
    rows = []
    for run in everything:
        for cell in run.record.cells:
            where, link = short_words(shape_of(cell)), f"#{cell_anchor(run, cell)}"
            command = Cell(cell_command(run.record, cell))
            if is_control(run.record):
                command = Cell(msg("data.measured_together"))
            rows.append([run.heading, Cell(where, link=link), command])
    heads = (Head(msg("head.variant")), Head(msg("head.cell")), Head(msg("data.command")))
    return Details(msg("data.commands.folded"), [Table(msg("data.commands"), heads, [Group(rows)])])


def section(records: Sequence[RunRecord]) -> Section:
    """Return the section."""
    everything = runs(records)
    blocks = _downloads(records)
    if any(run.record.cells for run in everything):
        blocks.append(_commands(everything))
    return Section("data", msg("data.title"), blocks)
