"""``python -m bench.run +model=smollm2-135m quant=fp8``: quantize, serve, measure, report.

The whole command is checked first: every job of a sweep is composed, and every combination judged, before the first
second is spent. Then Hydra runs the jobs, each leaving its record on disk, and one report shows them together.
"""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import hydra
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.compose import with_plus
from bench.composed import build_spec
from bench.errors import QuantbenchError
from bench.estimate import announce
from bench.paths import config_dir
from bench.preflight import preflight, shows_only
from bench.progress import console
from bench.session import Session

EXIT_INTERRUPTED = 130


def job(cfg: DictConfig) -> None:
    """Run one job; whatever happens to it is in its record, or told where no record could be written."""
    from hydra.core.hydra_config import HydraConfig

    from bench.execute import execute
    from bench.finish import publish

    try:
        spec = build_spec(cfg, list(HydraConfig.get().overrides.task))
        record = execute(spec)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            publish((record,), spec.reports_dir, record.run_id)
    except QuantbenchError as error:  # one job's error must not end the sweep
        tell(error)


def tell(error: QuantbenchError) -> None:
    """Print an error as one line."""
    console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = with_plus(sys.argv[1:] if argv is None else argv)
    if shows_only(arguments):
        _hydra(arguments)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        specs = preflight(arguments)
        if specs[0].plan:
            from bench.forecast_table import show

            show(specs)
            return 0
        with Session(specs[0].results_dir, arguments) as session:
            for line in announce(specs, resumed=session.resumed):
                console.print(line, markup=False, soft_wrap=True)
            _hydra([*arguments, f"session={session.name}"])
        from bench.finish import finish

        return finish(specs, session)
    except QuantbenchError as error:
        tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("interrupted; what was measured is kept, and the same command goes on from there", style="yellow")
        return EXIT_INTERRUPTED


def _hydra(arguments: Sequence[str]) -> None:
    """Hand the checked command to Hydra, which reads ``sys.argv``."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")(job)()
    finally:
        sys.argv = before


if __name__ == "__main__":
    sys.exit(main())
