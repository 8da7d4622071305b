"""Export runs to MLflow, one MLflow run per record. MLflow is not installed with quantbench."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from bench.errors import ToolchainError
from bench.machine.direct import bypass_proxies
from bench.records.record import RunRecord
from bench.report.rows import cell_row
from bench.speed.figures import MeasuredCell, measured_cell

EXPERIMENT = "quantbench"
PLACE = ("input_len", "output_len", "concurrency", "request_rate_per_s")
TAG = "quantbench.run_id"


def _speed(record: RunRecord, figures: MeasuredCell) -> dict[str, float]:
    """Return the numbers of one cell; those of an emulated one are not the variant's."""
    cell = figures.cell
    load = f"c{cell.concurrency}" if cell.request_rate_per_s is None else f"r{cell.request_rate_per_s:g}"
    return {
        f"in{cell.input_len}-out{cell.output_len}-{load}/{name}": float(value)
        for name, value in cell_row(record, figures).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in PLACE
    }


def metrics_of(record: RunRecord) -> dict[str, float]:
    """Return a run's numbers by cell or task: ``in1024-out32-c1/tpot_s``, ``mmlu/acc``."""
    metrics: dict[str, float] = {}
    for cell in record.cells:
        if figures := measured_cell(cell):
            metrics |= _speed(record, figures)
    for score in record.scores:
        if score.valid and not score.repeat:
            metrics |= {f"{score.task}/{metric.name.partition(',')[0]}": metric.value for metric in score.metrics}
    return {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in metrics.items()}


def log(sessions: Iterable[Sequence[RunRecord]], address: str | None) -> int:
    """Log every run that MLflow does not have yet and return their number.

    Args:
        sessions: records, session by session.
        address: MLflow's tracking server; None for MLFLOW_TRACKING_URI.

    Raises:
        ToolchainError: MLflow is not installed or rejects a request.
    """
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ToolchainError("MLflow is not installed: pip install mlflow-skinny, or mlflow") from None
    bypass_proxies()
    try:
        if address is not None:
            mlflow.set_tracking_uri(address)
        client = mlflow.MlflowClient()
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
        number = 0
        for records in sessions:
            for record in records:
                if client.search_runs([experiment], f"tags.`{TAG}` = '{record.run_id}'", max_results=1):
                    continue
                _log(client, experiment, record, metrics_of(record))
                number += 1
    except MlflowException as error:
        raise ToolchainError(f"MLflow failed: {str(error).splitlines()[0]}") from error
    return number


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def _log(client: Any, experiment: str, record: RunRecord, metrics: dict[str, float]) -> None:
    started_ms = _milliseconds(record.started_at)
    tags = {"session": record.session, "mlflow.runName": record.run_id}
    run_id = client.create_run(experiment, start_time=started_ms, tags=tags).info.run_id
    params = {
        "model": record.variant.model,
        "quant": record.variant.quant,
        "engine": record.engine,
        "device": record.device.name if record.device else "not known",
        "hostname": record.environment.hostname,
        "command": " ".join(record.command)[:6000],
        "key": record.key,
    }
    for name, value in params.items():
        client.log_param(run_id, name, value)
    for name, number in metrics.items():
        client.log_metric(run_id, name, number, timestamp=started_ms)
    client.set_tag(run_id, TAG, record.run_id)  # last, so that an interrupted export logs the run again
    ended_ms = record.finished_at and _milliseconds(record.finished_at)
    client.set_terminated(run_id, "FAILED" if record.failures else "FINISHED", end_time=ended_ms or started_ms)
