"""One job of a command. A module of its own, for launchers send it to other processes by its name."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.config.validate import build_spec
from bench.console import PROGRESS
from bench.errors import QuantbenchError


def tell(error: QuantbenchError) -> None:
    """Print an error as one line."""
    PROGRESS.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def job(cfg: DictConfig) -> None:
    """Run one job; whatever happens to it is in its record, or told where no record could be written."""
    from bench.pipeline.execute import execute
    from bench.pipeline.finish import publish

    try:
        spec = build_spec(cfg, list(HydraConfig.get().overrides.task))
        record = execute(spec)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            publish((record,), spec, record.session, record.run_id)
    except QuantbenchError as error:  # one job's error must not end the sweep
        tell(error)
