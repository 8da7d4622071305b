"""The interpreter of a stage: the current one, or that of a pinned environment, which is built once on request.

``bench/toolchains/NAME.toml`` describes an environment. It is in the cache, outside every checkout, under a name that
depends on its requirements, so that a changed pin is a different environment. Its manifest is written last: an
environment with a manifest is complete. ``quantbench toolchain`` lists, builds and checks environments.
"""

import importlib.util
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, ValidationError, field_validator

from bench import format as fmt
from bench.errors import ToolchainError
from bench.paths import cache_dir
from quantize.checkpoint import rename_fields
from quantize.key import Frozen, canonical_json, sha256_text

EXTRA_OF = {
    "llmcompressor": "quantize",
    "lm_eval": "eval",
    "datasets": "eval",
    "torch": "transformers",
    "transformers": "transformers",
    "compressed_tensors": "transformers",
    "auto_round": "quantize",
    "gguf": "transformers",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
}
FOLDER = Path(__file__).resolve().parent
MANIFEST = "quantbench_toolchain.json"
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")


def interpreter_for(packages: Iterable[str], what: str) -> str:
    """Return the Python interpreter that can import ``packages``.

    Args:
        packages: import names.
        what: the stage, for the message.

    Raises:
        ToolchainError: a package is not installed; names the package or the extra to install.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extras = {EXTRA_OF[name] for name in missing if name in EXTRA_OF}
        own = [f"'quantbench[{','.join(sorted(extras))}]'"] if extras else []
        others = [name for name in missing if name not in EXTRA_OF]
        raise ToolchainError(f"{what} needs {', '.join(missing)}: pip install {' '.join([*own, *others])}")
    return sys.executable


class Toolchain(Frozen):
    """One environment, as described by ``bench/toolchains/NAME.toml``."""

    name: str
    title: str
    what_for: str
    """Its purpose, in half a line."""
    python: tuple[str, ...] = ()
    """Python versions that it can be installed for, e.g. ``3.11``; empty for any that runs quantbench."""
    requirements: tuple[str, ...]
    """Required packages, each as ``name==version``; empty if quantbench's own extras install them."""
    no_deps: tuple[str, ...] = ()
    """Packages installed after the others, without their dependencies."""
    constraints: tuple[str, ...] = ()
    """Pinned versions of dependencies, used only if they are needed."""
    modules: tuple[str, ...] = Field(min_length=1)
    """Import names."""
    disk_bytes: NonNegativeInt
    download_bytes: NonNegativeInt
    on_cpu: str
    """What it can and cannot do on a machine without an accelerator, with the exact errors."""
    check: str
    """Python code that imports and uses it, and prints versions as one line of JSON."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables that its interpreter needs; see the function of this name."""

    @field_validator("requirements", "no_deps", "constraints")
    @classmethod
    def _pinned(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        loose = next((text for text in value if not PIN.fullmatch(text)), None)
        if loose:
            raise ValueError(f"'{loose}' is not pinned as name==version")
        return value

    @property
    def is_current(self) -> bool:
        """Whether it is part of quantbench's own installation."""
        return not self.requirements


class State(Frozen):
    """Whether a toolchain can be used."""

    kind: Literal["built", "not built", "current interpreter", "not installed"]
    python: str | None
    """Its interpreter; None where it cannot be used."""


class ToolchainManifest(Frozen):
    """The manifest of a complete environment; written last."""

    name: str
    requirements: tuple[str, ...]
    python: str
    versions: dict[str, str]
    """Every installed package."""
    disk_bytes: int
    build_s: float
    created_at: str


def names() -> list[str]:
    """Return the names of all toolchains."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def definition_file(name: str) -> Path:
    """Return the file that describes a toolchain."""
    return FOLDER / f"{name}.toml"


def read(name: str) -> Toolchain:
    """Return the toolchain ``name``.

    Raises:
        ToolchainError: it does not exist, or its file is invalid.
    """
    file = definition_file(name)
    if name not in names():
        raise ToolchainError(f"no toolchain '{name}'; known are {', '.join(names())}")
    try:
        return Toolchain.model_validate({"name": name, **tomllib.loads(file.read_text())})
    except tomllib.TOMLDecodeError as error:
        raise ToolchainError(f"{file} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ToolchainError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def base_python(chain: Toolchain) -> tuple[str, str]:
    """Return (the interpreter to build with, its version such as ``3.11``).

    Raises:
        ToolchainError: no suitable Python is installed.
    """
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not chain.python or current in chain.python:
        return sys.executable, current
    for version in chain.python:
        program = shutil.which(f"python{version}")
        if program:
            return program, version
    needed = " or ".join(f"python{version}" for version in chain.python)
    raise ToolchainError(f"toolchain {chain.name} needs {needed}, but only Python {current} is installed: install it")


def folder(chain: Toolchain, version: str) -> Path:
    """Return the folder of the environment of ``chain`` for a Python version, built or not."""
    pins = [chain.requirements, chain.no_deps, chain.constraints, version]
    return cache_dir() / "toolchains" / f"{chain.name}-{sha256_text(canonical_json(pins))[:12]}"


def read_built(place: Path) -> ToolchainManifest | None:
    """Return the manifest of a complete environment; None if there is none, or it is incomplete."""
    try:
        fields = json.loads((place / MANIFEST).read_bytes())
        # Older manifests call build_s seconds.
        manifest = ToolchainManifest.model_validate(rename_fields(fields, seconds="build_s"))
    except (OSError, ValueError):
        return None
    return manifest if (place / "bin" / "python").exists() else None


def state(chain: Toolchain) -> State:
    """Return whether a toolchain can be used, and its interpreter."""
    if chain.is_current:
        missing = [module for module in chain.modules if importlib.util.find_spec(module) is None]
        return (
            State(kind="not installed", python=None)
            if missing
            else State(kind="current interpreter", python=sys.executable)
        )
    try:
        place = folder(chain, base_python(chain)[1])
    except ToolchainError:
        return State(kind="not built", python=None)
    if read_built(place) is None:
        return State(kind="not built", python=None)
    return State(kind="built", python=str(place / "bin" / "python"))


def toolchain_interpreter(name: str, what: str) -> str:
    """Return the Python interpreter of toolchain ``name``.

    Args:
        name: the toolchain.
        what: what needs it, for the message.

    Raises:
        ToolchainError: it is not built; names the command to type.
    """
    chain = read(name)
    status = state(chain)
    if status.python is not None:
        return status.python
    if chain.is_current:
        return interpreter_for(chain.modules, what)
    raise ToolchainError(
        f"{what} needs the toolchain {name}, which is not built: quantbench toolchain build {name} "
        f"({fmt.space(chain.disk_bytes)} on disk)"
    )


def variables(name: str) -> dict[str, str]:
    """Return the environment variables for the interpreter of toolchain ``name``.

    These are the variables of its file, and PYTHONPATH if there is a folder of stubs, ``bench/toolchains/NAME/``.

    Raises:
        ToolchainError: there is no such toolchain.
    """
    stubs = FOLDER / name
    return {**({"PYTHONPATH": str(stubs)} if stubs.is_dir() else {}), **read(name).variables}


def pinned_versions(name: str) -> dict[str, str]:
    """Return {package: version} of the requirements of toolchain ``name``.

    Raises:
        ToolchainError: there is no such toolchain.
    """
    chain = read(name)
    return dict(text.split("==") for text in (*chain.requirements, *chain.no_deps))
