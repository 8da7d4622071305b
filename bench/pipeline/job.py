"""One job of a command. Launchers import this module by name in other processes."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.config.validate import build_spec
from bench.console import PROGRESS
from bench.errors import QuantbenchError


def print_error(error: QuantbenchError) -> None:
    """Print an error as one line."""
    PROGRESS.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def job(cfg: DictConfig) -> None:
    """Run one job. Its outcome is in its record; an error before the record exists is printed."""
    from bench.pipeline.execute import execute
    from bench.pipeline.finish import publish

    try:
        spec = build_spec(cfg, list(HydraConfig.get().overrides.task))
        record = execute(spec)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            publish((record,), spec, record.session, record.run_id)
    except QuantbenchError as error:  # one job's error must not end the sweep
        print_error(error)
