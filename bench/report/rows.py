"""Records as flat rows: one for each speed cell and each score, for csv, json, parquet and MLflow."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench.analysis.cost import cost
from bench.analysis.verdict import Verdict
from bench.limits.measured import columns
from bench.records.record import RunRecord, TaskScore
from bench.report.verdicts import judged
from bench.speed.figures import CellFigures, MeasuredCell, UnmeasuredCell, figures_of
from bench.speed.metrics import CellSummary, Interval

COLUMNS = {
    "model": "name of the model's config",
    "quant": "name of the quantization's config",
    "engine": "what served it",
    "input_len": "prompt tokens of the cell",
    "output_len": "generated tokens of the cell",
    "concurrency": "concurrent requests; in an open loop the maximum",
    "request_rate_per_s": "requests per second of an open loop; empty for a closed one",
    "n_requests": "requests of one trial",
    "context_length": "longest prompt plus answer that was served",
    "yarn_factor": "factor by which the model's positions were stretched; empty if they were not",
    "baseline": "yes for a cell of the baseline that was measured together with the variant",
    "interleaved": "yes if trials were interleaved with those of the baseline",
    "status": "ok, emulated, invalid, not_supported or failed",
    "reasons": "why the status is not ok, joined by ' | '",
    "unproven": "checks that the server does not support, joined by ' | '",
    "warnings": "what a reader should know, joined by ' | '",
    "n_trials": "measured trials",
    "ttft_s": "time to first token",
    "tpot_s": "time per output token after the first",
    "decode_tokens_per_s": "1 / tpot_s",
    "prefill_tokens_per_s": "prompt tokens / ttft_s",
    "qwen_speed_tokens_per_s": "(prompt + generated tokens) / end-to-end time, as Qwen publishes it",
    "output_tokens_per_s": "tokens of all requests / time from the first request to the last token",
    "batch_prefill_tokens_per_s": "prompt tokens of all requests sent together / time to the last first token",
    "requests_per_s": "requests answered per second",
    "goodput_requests_per_s": "of those, the ones that met workload.objective",
    "roof_tokens_per_s": "highest decode speed of one request that the device allows",
    "mbu": "share of the device's memory bandwidth used while decoding, 0 to 1",
    "roof_ttft_s": "shortest time to first token that the device allows",
    "mfu": "share of the device's arithmetic used while prefilling, 0 to 1",
    "bound_by": "what limits decoding: memory or compute",
    "bound_by_prefill": "what limits prefilling",
    "peak_memory_bytes": "highest memory of the server during the cell",
    "joules_per_million_tokens": "energy of the accelerators per million output tokens",
    "dollars_per_million_tokens": "price_per_hour per million output tokens",
    "checkpoint_bytes": "all safetensors files",
    "task": "accuracy task",
    "metric": "figure of the task, as lm-eval names it",
    "value": "its value",
    "stderr": "its standard error",
    "n_items": "items scored",
    "repeat": "1 for BF16 asked again in another order, 0 otherwise",
    "thinking": "whether the chat template let the model reason first; empty if none was used",
    "temperature": "sampling temperature of answers; empty if the task sets it",
    "verdict": "worse, non-inferior or inconclusive compared with the BF16 run of the same session; at the main metric",
    "delta": "score minus that of BF16 on the same items, of 1",
    "delta_low": "lower end of its 95 % interval",
    "delta_high": "upper end of its 95 % interval",
    "gained": "items gained against BF16",
    "lost": "items lost against BF16",
    "p_loss": "p value of a loss, corrected for all comparisons of the session (Holm)",
    "mde": "smallest true loss that is called worse with 80 % probability, of 1",
    "margin": "loss that does not matter, of 1",
    "run_id": "folder below results/runs",
}


def _middle(interval: Interval | None) -> float | None:
    return interval.median if interval else None


def _medians(summary: CellSummary) -> dict[str, float | None]:
    return {
        "ttft_s": _middle(summary.ttft_s),
        "tpot_s": _middle(summary.tpot_s),
        "decode_tokens_per_s": _middle(summary.decode_tokens_per_s),
        "prefill_tokens_per_s": _middle(summary.prefill_tokens_per_s),
        "qwen_speed_tokens_per_s": _middle(summary.qwen_speed_tokens_per_s),
        "output_tokens_per_s": _middle(summary.output_tokens_per_s),
        "batch_prefill_tokens_per_s": _middle(summary.batch_prefill_tokens_per_s),
        "requests_per_s": _middle(summary.requests_per_s),
        "goodput_requests_per_s": _middle(summary.goodput_requests_per_s),
    }


def _common(record: RunRecord) -> dict[str, Any]:
    return {
        "model": record.variant.model,
        "quant": record.variant.quant,
        "engine": record.engine,
        "checkpoint_bytes": record.checkpoint.checkpoint_bytes if record.checkpoint else None,
        "run_id": record.run_id,
    }


def cell_row(record: RunRecord, figures: CellFigures) -> dict[str, Any]:
    """Return the row of one cell, without the columns that it has no value for.

    Args:
        record: the run.
        figures: one of its cells, or one of its control.
    """
    cell = figures.cell
    control = record.control_of(cell)
    row: dict[str, Any] = {
        **_common(record),
        "quant": cell.variant.quant,
        "input_len": cell.input_len,
        "output_len": cell.output_len,
        "concurrency": cell.concurrency,
        "request_rate_per_s": cell.request_rate_per_s,
        "n_requests": cell.n_requests,
        "context_length": cell.context_length,
        "yarn_factor": cell.yarn.factor if cell.yarn else None,
        "baseline": "yes" if control else None,
        "interleaved": "yes" if cell.interleaved else None,
        "status": cell.status,
        "reasons": " | ".join(cell.reasons),
        "unproven": " | ".join(cell.unproven),
        "warnings": " | ".join(cell.warnings),
        "n_trials": len(cell.trials),
    }
    if control:
        row["checkpoint_bytes"] = control.checkpoint.checkpoint_bytes
    if isinstance(figures, MeasuredCell):
        row |= columns(record, figures)
    if not isinstance(figures, UnmeasuredCell):
        paid = cost(figures, record.dollars_per_hour)
        row |= _medians(figures.recorded)
        row |= {
            "peak_memory_bytes": figures.recorded.peak_memory_bytes,
            "joules_per_million_tokens": _middle(paid.joules_per_million_output_tokens) if paid else None,
            "dollars_per_million_tokens": _middle(paid.dollars_per_million_output_tokens) if paid else None,
        }
    return row


def _verdict_columns(verdict: Verdict) -> dict[str, Any]:
    found = verdict.comparison
    return {
        "verdict": verdict.kind,
        "delta": found.delta.value,
        "delta_low": found.delta.low,
        "delta_high": found.delta.high,
        "gained": found.gained,
        "lost": found.lost,
        "p_loss": verdict.p_worse_holm,
        "mde": verdict.mde,
        "margin": verdict.margin,
    }


def _score_rows(score: TaskScore, verdict: Verdict | None) -> Iterator[dict[str, Any]]:
    common = {
        "task": score.task,
        "status": score.status,
        "reasons": " | ".join(score.reasons),
        "n_items": score.n_items,
        "repeat": score.repeat,
        "thinking": score.thinking,
        "temperature": score.sampling.temperature if score.sampling else None,
        "context_length": score.context_length,
        "yarn_factor": score.yarn.factor if score.yarn else None,
    }
    if not score.valid or not score.metrics:
        yield common
        return
    for place, metric in enumerate(score.metrics):
        row = {**common, "metric": metric.name, "value": metric.value, "stderr": metric.stderr}
        yield row | (_verdict_columns(verdict) if verdict and not place else {})


def session_rows(records: Sequence[RunRecord]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one session's records; of repeated runs, the last one counts for verdicts."""
    last = tuple({record.key: record for record in records}.values())
    verdicts = {(one.run.record.run_id, one.score.task): one.verdict for one in judged(last) if one.verdict}
    for record in records:
        yield from rows(record, verdicts)


def rows(
    record: RunRecord, verdicts: Mapping[tuple[str, str], Verdict] = MappingProxyType({})
) -> Iterator[dict[str, Any]]:
    """Yield one row per cell and per score of a record, every column present.

    Args:
        record: one run.
        verdicts: those of its session, by run id and task.
    """
    cells = (*record.cells, *(record.control.cells if record.control else ()))
    measured = [cell_row(record, figures_of(cell)) for cell in cells]
    scored = [
        _common(record) | row
        for score in record.scores
        for row in _score_rows(score, None if score.repeat else verdicts.get((record.run_id, score.task)))
    ]
    for row in [*measured, *scored]:
        yield {name: row.get(name) for name in COLUMNS}
