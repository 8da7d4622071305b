"""Check a command, run its jobs and write one report: ``python -m bench.run +model=smollm2-135m quant=fp8``.

The complete command is checked first: every job of a sweep is composed and every combination checked before the first
job starts. Then Hydra runs the jobs, each of which writes its record, and one report covers all of them.
"""

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import hydra

from bench.config.compose import with_plus
from bench.config.presets import register
from bench.config.spec import RunSpec
from bench.console import PROGRESS
from bench.errors import EXIT_INTERRUPTED, QuantbenchError
from bench.machine.direct import bypass_proxies
from bench.paths import config_dir
from bench.pipeline.job import job, print_error
from bench.pipeline.session import CommandSession
from bench.plan.announce import announce
from bench.plan.preflight import check_shown, launches_elsewhere, preflight, shows_only
from bench.records.store import unfinished_places

ATTEMPTS = 3
"""Attempts to run a command whose workers die. Chosen: a job that kills three workers will kill the next one too."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = with_plus(sys.argv[1:] if argv is None else argv)
    bypass_proxies()
    if shows_only(arguments):
        try:
            check_shown(arguments)
        except QuantbenchError as error:
            print_error(error)
            return error.exit_code
        _hydra(arguments)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        specs = preflight(arguments)
        if specs[0].plan:
            from bench.plan.table import show

            show(specs)
            return 0
        with CommandSession(specs[0].results_dir, arguments) as session:
            for line in announce(specs, resumed=session.resumed):
                PROGRESS.print(line, markup=False, soft_wrap=True)
            _launch(arguments, specs, session)
        from bench.pipeline.finish import finish

        return finish(specs, session)
    except QuantbenchError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        PROGRESS.print("interrupted; results so far are kept; rerun the same command to resume", style="yellow")
        return EXIT_INTERRUPTED


def _launch(arguments: Sequence[str], specs: Sequence[RunSpec], session: CommandSession) -> None:
    """Run the jobs; if a launcher's worker dies, run its jobs again.

    Raises:
        ConfigError: the launcher cannot be used.
    """
    for attempt in range(1, ATTEMPTS + 1):
        cause = "a worker ended"
        try:
            _hydra([*arguments, f"session={session.name}"])
        except Exception as error:
            if not launches_elsewhere(arguments):
                raise
            cause = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        commands = [spec.command for spec in specs]
        left = [specs[place] for place in unfinished_places(specs[0].results_dir, session.name, commands)]
        if not left or not launches_elsewhere(arguments) or attempt == ATTEMPTS:
            return
        names = ", ".join(f"{spec.variant.model} {spec.variant.quant}" for spec in left)
        PROGRESS.print(
            f"not finished: {names} ({cause}); running again, attempt {attempt + 1} of {ATTEMPTS}", markup=False
        )
        session.begin_attempt()


def _hydra(arguments: Sequence[str]) -> None:
    """Run the checked command with Hydra, which reads ``sys.argv``."""
    register()
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")(job)()
    finally:
        sys.argv = before


if __name__ == "__main__":
    sys.exit(main())
