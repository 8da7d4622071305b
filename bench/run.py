"""``python -m bench.run +model=smollm2-135m quant=fp8``: quantize, serve, measure, report.

The whole command is checked first: every job of a sweep is composed, and every combination judged, before the first
second is spent. Then Hydra runs the jobs, each leaving its record on disk, and one report shows them together.
"""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import hydra
from omegaconf import DictConfig

from bench.compose import config_dir, with_plus
from bench.errors import QuantbenchError
from bench.estimate import announce
from bench.preflight import preflight, shows_only
from bench.progress import console
from bench.session import Session
from bench.spec import RunSpec, build_spec

EXIT_INTERRUPTED = 130


def job(cfg: DictConfig) -> None:
    """Run one job; whatever happens to it is in its record."""
    from hydra.core.hydra_config import HydraConfig

    from bench.execute import execute

    execute(build_spec(cfg, list(HydraConfig.get().overrides.task)))


def finish(spec: RunSpec, session: str) -> int:
    """Write the session's report, show its summary, and return the exit code its records ask for."""
    from bench.report.page import write
    from bench.store import Store
    from bench.summary import exit_code, show

    records = tuple(Store(spec.results_dir).records(session))
    if not records:
        return 1
    name = records[0].run_id if len(records) == 1 else session
    path = write(records, spec.reports_dir / f"{name}.html", title=f"quantbench · {spec.model.title}")
    show(records, path)
    return exit_code(records)


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
        with Session(specs[0].results_dir, arguments) as session:
            for line in announce(specs, resumed=session.resumed):
                console.print(line, markup=False, soft_wrap=True)
            _hydra([*arguments, f"session={session.name}"])
        return finish(specs[0], session.name)
    except QuantbenchError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
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
