"""Refuse a composed config that names code to run, before Hydra runs it.

Before a job starts, Hydra instantiates callbacks, the launcher, the sweeper and the classes of logging configs. Configs
may come from an untrusted folder, so they must not name code.
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
"""Launcher classes by Hydra's name."""
SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
PLUGINS = {"hydra.launcher": tuple(LAUNCHERS.values()), "hydra.sweeper": (SWEEPER,)}
"""Nodes that Hydra instantiates, and the classes allowed there."""
LOGGING = ("job_logging", "hydra_logging")
LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")
REFERENCE = re.compile(r"\$\{(hydra\.(job|run|sweep)\.\w+|results_dir|session|oc\.env:\w+(,[\w ./:-]*)?)\}")
"""Interpolations that give plain text; others could create a node with code in it."""

Node = Mapping[str, Any]


def refuse_targets(node: Any, path: str = "") -> None:
    """Refuse a part of a config that names code to instantiate.

    Raises:
        ConfigError: it has a ``_target_`` other than the class of a shipped launcher or sweeper.
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
    """Refuse a config that would make Hydra run code from outside Hydra and quantbench.

    Args:
        config: the composed config with Hydra's node, interpolations unresolved.
        shipped: the ``hydra`` node of quantbench's own config, with the same choice of logging configs.

    Raises:
        ConfigError: with the first such field.
    """
    refuse_targets(config)
    hydra = config["hydra"]
    for path, expected in PLUGINS.items():
        _refuse_plugin(path, hydra[path.removeprefix("hydra.")], expected)
    if hydra["callbacks"]:
        raise ConfigError("hydra.callbacks: configs hold data and never name code to run; remove it")
    for name in LOGGING:
        if _without_levels(hydra[name]) != _without_levels(shipped[name]):
            raise ConfigError(
                f"hydra.{name}: only log levels may be changed, because logging configs name code; remove it"
            )
    if hydra["job"]["env_set"] or hydra["job"]["env_copy"]:
        raise ConfigError("hydra.job.env_set, hydra.job.env_copy: set variables in the shell instead; remove it")
    if hydra["sweeper"]["params"]:
        raise ConfigError(
            "hydra.sweeper.params: give the sweep on the command line, as in -m quant=bf16,fp8; remove it"
        )


def _refuse_plugin(path: str, node: Any, expected: tuple[str, ...]) -> None:
    if not isinstance(node, Mapping) or node.get(TARGET) not in expected:
        raise ConfigError(f"{path}: expected one of the launchers shipped with quantbench: {', '.join(LAUNCHERS)}")
    for place, text in _texts(node, path):
        if "$" in REFERENCE.sub("", text):
            raise ConfigError(f"{place}={text}: only results_dir, session, hydra.sweep.… and oc.env: are allowed here")


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield (path, text) for every string below a node."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}.{index}")


def _without_levels(node: Any) -> Any:
    """Return a logging config without its log levels."""
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key != "level" or value not in LEVELS}
        return {key: _without_levels(value) for key, value in kept.items()}
    return node
