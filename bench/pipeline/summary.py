"""Print the summary of a command: one row per variant with its verdicts, and the path of the report."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from bench import format as fmt
from bench.console import console
from bench.limits.measured import against, limit_of
from bench.records.record import RunRecord, TaskScore
from bench.report.verdicts import Judged, judged
from bench.report.view import SHOWN, score_of
from bench.speed.figures import MeasuredCell, recorded_cell


def _states(record: RunRecord) -> str:
    counts = Counter([cell.status for cell in record.cells] + [score.status for score in record.scores])
    counts["failed"] += len(record.failures)
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()) if number) or "nothing measured"


def _decode(record: RunRecord) -> str:
    """Return the decode speed of the longest measured shape, marked if it is emulated."""
    for cell in sorted(record.cells, key=lambda cell: cell.input_len, reverse=True):
        figures = recorded_cell(cell)
        if figures and figures.recorded.decode_tokens_per_s:
            speed = f"{figures.recorded.decode_tokens_per_s.median:.1f} tok/s @ {cell.input_len}"
            return speed + (_of_roof(record, figures) if isinstance(figures, MeasuredCell) else " (emulated)")
    return fmt.MISSING


def _of_roof(record: RunRecord, cell: MeasuredCell) -> str:
    limit = limit_of(record, cell)
    share = against(limit, cell).decode if limit else None
    return f", {fmt.percent(share)} of roof" if share is not None else ""


def _score(score: TaskScore, judged: Judged | None) -> str:
    """Return a score with its change from BF16 and its verdict, if any; only the status if it is not valid."""
    if score.status not in SHOWN or not score.metrics:
        return score.status
    value = f"{score.metrics[0].value:.3f}"
    if judged is None or judged.verdict is None:
        return value
    return f"{value} ({fmt.points_by_width(judged.verdict.comparison.delta.value)} pp, {judged.verdict.kind})"


def show(records: Sequence[RunRecord], report: Path) -> None:
    """Print the summary table and the path of the report."""
    out = console()
    tasks = sorted({score.task for record in records for score in record.scores})
    table = Table(title="quantbench", title_justify="left")
    for heading in ("model", "quant", "size", "bits/weight", "KL", "decode", *tasks, "status"):
        table.add_column(heading)
    verdicts = {(entry.run.record.run_id, entry.score.task): entry for entry in judged(records)}
    for record in records:
        manifest = record.checkpoint
        row = [escape(record.variant.model), escape(record.variant.quant)]
        row.append(fmt.size(manifest.checkpoint_bytes) if manifest else fmt.MISSING)
        row.append(
            f"{manifest.bits_per_quantized_weight:.2f}"
            if manifest and manifest.bits_per_quantized_weight
            else fmt.MISSING
        )
        row.append(f"{manifest.fidelity.kl_nats:.4f}" if manifest and manifest.fidelity else fmt.MISSING)
        row.append(_decode(record))
        for task in tasks:
            score = score_of(record, task)
            row.append(_score(score, verdicts.get((record.run_id, task))) if score else fmt.MISSING)
        table.add_row(*row, _states(record))
    out.print(table)
    out.print(f"report: {report}", markup=False, soft_wrap=True)
