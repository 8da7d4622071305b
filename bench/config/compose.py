"""From the command line to a list of checked run specs, before any time is spent.

Hydra composes; this module makes ``model=x`` work like ``+model=x``, finds the nearest name for a typo, and composes
every job of a sweep once beforehand, so that the last job's mistake is told before the first job starts.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.config.spec import RunSpec
from bench.config.validate import BASELINE, GROUPS, build_spec
from bench.errors import ConfigError, nearest
from bench.paths import config_dir

OPTIONAL = ("experiment",)
"""Groups of which nothing may be chosen."""


def names(group: str) -> list[str]:
    """Return the names that a config group offers."""
    return sorted(file.stem for file in (config_dir() / group).glob("*.yaml"))


def with_plus(argv: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra wants them: ``+model=x``, ``+kv_cache=x`` and ``quant@baseline=x``."""
    return [re.sub("^(model=|kv_cache=)", r"+\1", re.sub(r"^\+?baseline=", f"{BASELINE}=", text)) for text in argv]


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (flags, overrides); flags that take a value keep it."""
    flags: list[str] = []
    overrides: list[str] = []
    takes_value = {"-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path", "-p", "--package"}
    arguments = iter([part for text in argv for part in (text.split("=", 1) if text.startswith("--") else [text])])
    for text in arguments:
        if text.startswith("-"):
            flags.append(text)
            if text in takes_value:
                flags.append(next(arguments, ""))
        else:
            overrides.append(text)
    return flags, overrides


def jobs(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """Return the overrides of each job of a sweep; a single job when it is not a sweep.

    Raises:
        ConfigError: an override cannot be parsed, or sweeps without ``-m``.
    """
    choices: list[list[str]] = []
    try:
        with _hydra():
            loader = GlobalHydra.instance().config_loader()
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
            for text, override in zip(overrides, parsed, strict=True):
                if not override.is_sweep_override():
                    choices.append([text])
                elif multirun:
                    key = override.get_key_element()
                    choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                else:
                    raise ConfigError(f"{text}: several values need -m, as in python -m bench.run -m {text}")
    except HydraException as error:
        raise ConfigError(f"cannot read the command: {str(error).splitlines()[0]}") from error
    return [list(job) for job in itertools.product(*choices)]


def check_names(overrides: Sequence[str]) -> None:
    """Check the names chosen from config groups.

    Raises:
        ConfigError: no such name, or no such group; suggests the nearest.
    """
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        key, _, place = key.partition("@")
        if key in GROUPS and value not in (*names(key), *(("null",) if key in OPTIONAL else ())):
            raise ConfigError(
                f"{place or key}={value}: no such {key}{nearest(value, names(key))} Known: {', '.join(names(key))}"
            )


def compose_job(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> RunSpec:
    """Compose and check one job.

    Raises:
        ConfigError: whatever is wrong, in one line.
    """
    if not config_dirs:
        check_names(overrides)
    places = ",".join(f"file://{Path(path).absolute()}" for path in config_dirs)
    search = [f"hydra.searchpath=[{places}]"] if places else []
    try:
        with _hydra():
            cfg = compose("run", overrides=[*overrides, *search])
            return build_spec(cfg, [text for text in overrides if not text.startswith("hydra")])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error, [*overrides, *search])) from error


@contextmanager
def _hydra() -> Iterator[None]:
    """Have Hydra look for configs in :func:`config_dir`, for the duration of a ``with`` block."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        yield


def _one_line(error: Exception, overrides: Sequence[str]) -> str:
    """Return Hydra's error as one line, with the nearest field for a mistyped one."""
    text = str(error).strip()
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else None
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        path = unknown[1]
        parent, _, field = path.rpartition(".")
        fields = _fields(parent, overrides)
        known = f" Known in {parent or 'run'}: {', '.join(fields)}" if fields else ""
        return f"{path}: no such field{nearest(field, fields)}{known}"
    first = text.splitlines()[0]
    return f"{first} ({str(cause).splitlines()[0]})" if cause and str(cause) else first


def _fields(parent: str, overrides: Sequence[str]) -> list[str]:
    """Return the fields of config node ``parent``, composed from the group choices alone."""
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0] in (*GROUPS, "hydra.searchpath")]
    with _hydra():
        node: Any = compose("run", overrides=kept)
    for part in filter(None, parent.split(".")):
        node = node.get(part) if isinstance(node, DictConfig) else None
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
