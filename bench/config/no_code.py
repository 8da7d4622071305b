"""Refuses a composed config that names code to run, before Hydra runs it.

Hydra instantiates ``hydra.callbacks``, the launcher and the sweeper, and logging configs name classes, before a job
begins. A config may come from an untrusted folder, so code has no place in one.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.errors import ConfigError

TARGET = "_target_"
LAUNCHERS = {
    "basic": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "joblib": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "ray": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
}
"""Classes of the launchers by Hydra's names."""
SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
PLUGINS = {"hydra.launcher": tuple(LAUNCHERS.values()), "hydra.sweeper": (SWEEPER,)}
"""Nodes of which Hydra makes objects, and the classes that may be named there."""
LOGGING = ("job_logging", "hydra_logging")
LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")
REFERENCE = re.compile(r"\$\{(hydra\.(job|run|sweep)\.\w+|results_dir|session|oc\.env:\w+(,[\w ./:-]*)?)\}")
"""Interpolations that give a text: others can make a node of their own, with code in it."""

Node = Mapping[str, Any]


def refuse_targets(node: Any, path: str = "") -> None:
    """Refuse a part of a config that names code to instantiate.

    Raises:
        ConfigError: it holds ``_target_``, other than the class of a shipped launcher or sweeper.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == TARGET and value not in PLUGINS.get(path.removesuffix("."), ()):
                raise ConfigError(f"{path}_target_: configs hold data and never name code to run; remove it")
            refuse_targets(value, f"{path}{key}.")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            refuse_targets(value, f"{path}{index}.")


def refuse_code(config: Node, shipped: Node) -> None:
    """Refuse a whole config through which Hydra would run code that is not its own or ours.

    Args:
        config: as composed for a command, Hydra's node included, interpolations unresolved.
        shipped: ``hydra`` of the config that comes with quantbench, with the same choice of logging configs.

    Raises:
        ConfigError: it would; names the first such field.
    """
    refuse_targets(config)
    hydra = config["hydra"]
    for path, expected in PLUGINS.items():
        _refuse_plugin(path, hydra[path.removeprefix("hydra.")], expected)
    if hydra["callbacks"]:
        raise ConfigError("hydra.callbacks: configs hold data and never name code to run; remove it")
    for name in LOGGING:
        if _without_levels(hydra[name]) != _without_levels(shipped[name]):
            raise ConfigError(f"hydra.{name}: only levels may be changed, for a logging config names code; remove it")
    if hydra["job"]["env_set"] or hydra["job"]["env_copy"]:
        raise ConfigError("hydra.job.env_set, hydra.job.env_copy: set variables in the shell; remove it")
    if hydra["sweeper"]["params"]:
        raise ConfigError("hydra.sweeper.params: type what to sweep, as in -m quant=bf16,fp8; remove it")


def _refuse_plugin(path: str, node: Any, expected: tuple[str, ...]) -> None:
    if not isinstance(node, Mapping) or node.get(TARGET) not in expected:
        raise ConfigError(f"{path}: expected one of those that come with quantbench: {', '.join(LAUNCHERS)}")
    for place, text in _texts(node, path):
        if "$" in REFERENCE.sub("", text):
            raise ConfigError(f"{place}={text}: only results_dir, session, hydra.sweep.… and oc.env: are read here")


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every text below a node."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}.{index}")


def _without_levels(node: Any) -> Any:
    """Return a logging config without the levels in it."""
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key != "level" or value not in LEVELS}
        return {key: _without_levels(value) for key, value in kept.items()}
    return node
