"""Turn the command line into a list of checked run specs, before the run.

Hydra composes the configs. This module makes ``model=x`` work like ``+model=x``, suggests the nearest name for a typo,
and composes every job of a sweep in advance, so that an error in the last job is reported before the first one starts.
"""

import functools
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
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bench.config.no_code import LOGGING, refuse_code
from bench.config.presets import is_base, register
from bench.config.spec import ALLOWED, NAME, RunSpec
from bench.config.validate import BASELINE_GROUP, GROUPS, build_spec
from bench.errors import ConfigError, nearest
from bench.paths import config_dir

OPTIONAL = ("experiment",)
"""Groups that may be left unset."""


TAKES_VALUE = (
    "-cd", "--config-dir", "-cn", "--config-name", "-cp", "--config-path", "-p", "--package", "-c", "--cfg", "-i",
    "--info",
)  # fmt: skip
"""Flags that take a value."""
SEARCH_PATH = "hydra.searchpath"


def names(group: str, config_dirs: Sequence[str] = ()) -> list[str]:
    """Return the names in a config group, from quantbench's config folder and ``config_dirs``."""
    folders = [config_dir(), *map(Path, config_dirs)]
    files = [file for folder in folders for file in (folder / group).glob("*.yaml")]
    return sorted({file.stem for file in files if not is_base(file.stem)})


def with_plus(argv: Sequence[str]) -> list[str]:
    """Return the arguments in Hydra's form: ``+model=x``, ``+kv_cache=x`` and ``quant@baseline=x``."""
    return [
        re.sub("^(model=|kv_cache=)", r"+\1", re.sub(r"^\+?baseline=", f"{BASELINE_GROUP}=", text)) for text in argv
    ]


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (flags, overrides); a flag that takes a value is followed by it, or by "" if it is missing."""
    flags: list[str] = []
    overrides: list[str] = []
    arguments = [part for text in argv for part in (text.split("=", 1) if text.startswith("-") else [text])]
    for before, text in zip(["", *arguments], arguments, strict=False):
        if before in TAKES_VALUE:
            flags.append("" if text.startswith("-") else text)
        if text.startswith("-"):
            flags.append(text)
        elif before not in TAKES_VALUE:
            overrides.append(text)
    if arguments and arguments[-1] in TAKES_VALUE:
        flags.append("")
    return flags, overrides


def jobs(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """Return the overrides of each job of a sweep; a single job if it is not a sweep.

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


def check_names(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> None:
    """Check the names chosen from config groups.

    Args:
        overrides: as typed.
        config_dirs: further config folders; one named by ``hydra.searchpath`` may have any names.

    Raises:
        ConfigError: a name is invalid or unknown; suggests the nearest.
    """
    searched = any(text.lstrip("+").startswith(SEARCH_PATH) for text in overrides)
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        key, _, place = key.partition("@")
        if key in GROUPS and value and not NAME.fullmatch(value.lstrip("_")):
            hub = f"; for a model on the hub: +model=hub model.source.repo={value}" if key == "model" else ""
            raise ConfigError(f"{place or key}={value}: {ALLOWED}{hub}")
        known = names(key, config_dirs) if key in GROUPS and not searched else []
        if known and value not in (*known, *(("null",) if key in OPTIONAL else ())):
            raise ConfigError(f"{place or key}={value}: no such {key}{nearest(value, known)} Known: {', '.join(known)}")


def compose_job(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> RunSpec:
    """Compose and check one job.

    Raises:
        ConfigError: the first error, as one line.
    """
    check_names(overrides, config_dirs)
    cfg = _checked(overrides, config_dirs, RunMode.RUN)
    with open_dict(cfg):
        del cfg["hydra"]
    try:
        return build_spec(cfg, [text for text in overrides if not text.startswith("hydra")])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error, overrides)) from error


def check_code(overrides: Sequence[str], config_dirs: Sequence[str] = (), *, multirun: bool = False) -> None:
    """Check that Hydra will only run its own code and quantbench's for a command.

    A sweep is composed once in addition to its jobs, because callbacks, launcher and sweeper belong to the sweep.

    Raises:
        ConfigError: it would run other code, or the command cannot be composed.
    """
    _checked(overrides, config_dirs, RunMode.MULTIRUN if multirun else RunMode.RUN)


def _checked(overrides: Sequence[str], config_dirs: Sequence[str], mode: RunMode) -> DictConfig:
    """Return the complete config including Hydra's node, composed as Hydra will and checked for code.

    Raises:
        ConfigError: it cannot be composed, or names code to run.
    """
    searched: Sequence[str] = overrides
    try:
        searched = _searched(overrides, config_dirs)
        cfg = _load(searched, mode)
        choices = cfg.hydra.runtime.choices
        shipped = _shipped(config_dir(), tuple(f"hydra/{name}={choices[f'hydra/{name}']}" for name in LOGGING))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error, searched)) from error
    refuse_code(_plain(cfg), shipped)
    return cfg


def _load(overrides: Sequence[str], mode: RunMode) -> DictConfig:
    with _hydra():
        loader = GlobalHydra.instance().config_loader()
        return loader.load_configuration("run", list(overrides), mode, from_shell=False)


@functools.cache
def _shipped(folder: Path, choices: tuple[str, ...]) -> dict[str, Any]:
    """Return Hydra's node of the config in ``folder``, without other folders and with these choices."""
    hydra: dict[str, Any] = _plain(_load(choices, RunMode.RUN))["hydra"]
    return hydra


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _searched(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """Return the overrides with all config folders in one ``hydra.searchpath``, in Hydra's order.

    Raises:
        ConfigError: the search path of the command is not a list.
    """
    if not config_dirs:
        return list(overrides)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    is_path = [override.get_key_element() == SEARCH_PATH for override in parsed]
    given = next((override.value() for override, here in zip(parsed, is_path, strict=True) if here), [])
    if not isinstance(given, list):
        raise ConfigError(f"{SEARCH_PATH}={given}: expected a list, as in {SEARCH_PATH}=[/my/configs]")
    places = [f"file://{Path(path).absolute()}" for path in config_dirs] + [str(place) for place in given]
    quoted = ",".join("'" + place.replace("\\", "\\\\").replace("'", "\\'") + "'" for place in places)
    kept = [text for text, here in zip(overrides, is_path, strict=True) if not here]
    return [*kept, f"{SEARCH_PATH}=[{quoted}]"]


@contextmanager
def _hydra() -> Iterator[None]:
    """Make Hydra read configs from :func:`config_dir` during a ``with`` block."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        yield


def _one_line(error: Exception, overrides: Sequence[str]) -> str:
    """Return Hydra's error as one line, with the nearest field for a typo."""
    text = str(error).strip()
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else None
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        path = unknown[1]
        parent, _, field = path.rpartition(".")
        fields = _fields(parent, overrides)
        known = f" Known in {parent or 'run'}: {', '.join(fields)}" if fields else ""
        return f"{path}: no such field{nearest(field, fields)}{known}"
    lines = text.splitlines()
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{first} ({str(cause).splitlines()[0]})" if cause and str(cause) else first


def _fields(parent: str, overrides: Sequence[str]) -> list[str]:
    """Return the fields of config node ``parent``, composed from the group choices only."""
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0] in (*GROUPS, SEARCH_PATH)]
    with _hydra():
        node: Any = compose("run", overrides=kept)
    for part in filter(None, parent.split(".")):
        node = node.get(part) if isinstance(node, DictConfig) else None
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
