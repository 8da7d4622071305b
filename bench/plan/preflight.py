"""Check a complete command before it starts: every job of a sweep is composed and checked."""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.config.compose import TAKES_VALUE, check_code, compose_job, jobs, names, split
from bench.config.spec import RunSpec
from bench.errors import ConfigError, nearest
from bench.paths import cache_dir
from bench.plan.stages import check

MULTIRUN = ("-m", "--multirun")
CONFIG_DIR = ("-cd", "--config-dir")
LAUNCHER = "hydra/launcher="
LAUNCHERS = {
    "basic": None,
    "joblib": "hydra_joblib_launcher",
    "ray": "hydra_ray_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "submitit_slurm": "hydra_submitit_launcher",
}
"""Launchers by Hydra's name: the module of the package that provides each."""
SHOWING = ("-h", "--help", "--hydra-help", "--version", "-sc", "--shell-completion", "-i", "--info", "-c", "--cfg")
"""Flags with which Hydra only prints something and runs nothing."""
SHOWING_MORE = ("--resolve", "-p", "--package")
"""Flags that change how it is printed."""
COMPLETION = ("-sc", "--shell-completion")
"""Flags with which Hydra neither composes nor logs anything."""


def launches_elsewhere(arguments: Sequence[str]) -> bool:
    """Return whether a launcher runs the jobs in other processes."""
    return any(text.startswith(LAUNCHER) and text != f"{LAUNCHER}basic" for text in arguments)


def check_launcher(overrides: Sequence[str]) -> None:
    """Check that the chosen launcher, if any, is known and installed.

    Raises:
        ConfigError: it is not; suggests the package to install or the nearest name.
    """
    for text in overrides:
        if not text.startswith(LAUNCHER):
            continue
        name = text.removeprefix(LAUNCHER)
        if name not in LAUNCHERS:
            raise ConfigError(f"{text}: no such launcher{nearest(name, LAUNCHERS)} Known: {', '.join(LAUNCHERS)}")
        package = LAUNCHERS[name]
        if package and importlib.util.find_spec(f"hydra_plugins.{package}") is None:
            raise ConfigError(f"{text} needs a package: pip install 'quantbench[cluster]'")


def shows_only(arguments: Sequence[str]) -> bool:
    """Return whether the command only prints something."""
    return any(argument.partition("=")[0] in SHOWING for argument in arguments)


def _folders(flags: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the config folders given by the flags.

    Raises:
        ConfigError: a flag is unknown, a folder does not exist, or there are several.
    """
    folders: list[str] = []
    left = iter(flags)
    for flag in left:
        value = next(left) if flag in TAKES_VALUE else ""
        if flag in CONFIG_DIR:
            folders.append(value)
            if not value or not Path(value).is_dir():
                raise ConfigError(f"{flag} {value}: no such folder")
        elif flag not in known:
            raise ConfigError(f"{flag}: no such flag; see python -m bench.run --help")
    if len(folders) > 1:
        raise ConfigError(
            f"--config-dir {folders[1]}: one folder at most; add more with hydra.searchpath=[{folders[1]}]"
        )
    return folders


def check_shown(arguments: Sequence[str]) -> None:
    """Check a command that only prints something, because Hydra configures its logging for that too.

    Raises:
        ConfigError: a flag is unknown, the config cannot be composed, or it names code to run.
    """
    flags, overrides = split(arguments)
    config_dirs = _folders(flags, (*SHOWING, *SHOWING_MORE, *MULTIRUN))
    if (config_dirs or overrides) and not any(flag in COMPLETION for flag in flags):
        check_code(overrides, config_dirs)


def preflight(arguments: Sequence[str]) -> list[RunSpec]:
    """Compose and check every job of a command. With ``plan=…`` jobs are only composed; the plan lists their obstacles.

    Raises:
        ConfigError: a part of it is wrong or cannot be combined.
        ToolchainError: a package that a job needs is not installed.
    """
    flags, overrides = split(arguments)
    config_dirs = _folders(flags, MULTIRUN)
    if not any(text.lstrip("+").startswith("model=") for text in overrides):
        raise ConfigError(f"which model? Add for example +model=smollm2-135m. Known: {', '.join(names('model'))}")
    check_launcher(overrides)
    multirun = any(flag in MULTIRUN for flag in flags)
    specs = [compose_job([*job, "session=preflight"], config_dirs) for job in jobs(overrides, multirun=multirun)]
    if multirun:
        check_code(overrides, config_dirs, multirun=True)
    if specs[0].plan:
        return specs
    check_system()
    for spec in specs:
        check(spec)
        check_writable(spec.results_dir, "results_dir=…")
        check_writable(spec.reports_dir, "reports_dir=…")
    check_writable(cache_dir(), "QUANTBENCH_CACHE")
    return specs


def check_system() -> None:
    """Check that the system supports runs, which need file locks and process groups.

    Raises:
        ConfigError: it does not; lists the commands that work here.
    """
    if importlib.util.find_spec("fcntl") is None:
        raise ConfigError(
            "a run needs a POSIX system, such as Linux; plan=true, compare, decide, export and site work here"
        )


def check_writable(folder: Path, setting: str) -> None:
    """Create ``folder`` if it does not exist and check that it is writable.

    Raises:
        ConfigError: it is not; names the setting that chooses another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; choose another folder with {setting}") from error
