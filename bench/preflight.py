"""Judge a whole command before it starts: every job of a sweep is composed and checked."""

from collections.abc import Sequence

from bench.compose import compose_job, jobs, names, split
from bench.errors import ConfigError
from bench.plan import check
from bench.spec import RunSpec

MULTIRUN = ("-m", "--multirun")
CONFIG_DIR = ("-cd", "--config-dir")
SHOWING = ("-h", "--help", "--hydra-help", "--version", "-sc", "--shell-completion", "-i", "--info", "-c", "--cfg")
"""Flags with which Hydra only shows something: nothing is checked and nothing runs."""


def shows_only(arguments: Sequence[str]) -> bool:
    """Tell whether the command only shows something."""
    return any(argument.partition("=")[0] in SHOWING for argument in arguments)


def preflight(arguments: Sequence[str]) -> list[RunSpec]:
    """Compose and check every job of the command.

    Raises:
        ConfigError: something in it is wrong, or cannot be combined.
        ToolchainError: a package that a job needs is not installed.
    """
    flags, overrides = split(arguments)
    config_dirs: list[str] = []
    left = iter(flags)
    for flag in left:
        if flag in CONFIG_DIR:
            config_dirs.append(next(left))
        elif flag not in MULTIRUN:
            raise ConfigError(f"{flag}: no such flag; see python -m bench.run --help")
    if not any(text.lstrip("+").startswith("model=") for text in overrides):
        raise ConfigError(f"which model? Add for example +model=smollm2-135m. Known: {', '.join(names('model'))}")
    multirun = any(flag in MULTIRUN for flag in flags)
    specs = [compose_job([*job, "session=preflight"], config_dirs) for job in jobs(overrides, multirun=multirun)]
    for spec in specs:
        check(spec)
    return specs
