"""Which interpreter runs a stage: the current one, or a pinned environment of its own, built once on request.

``bench/toolchains/NAME.toml`` says what an environment holds. It lies in the cache, outside every checkout, under a
name that depends on what was asked for: another pin is another environment. Its manifest is written last, so an
environment that has one is whole. ``quantbench toolchain`` lists, builds and checks them.
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
        ToolchainError: one of them is not installed; names the extra to install.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extras = sorted({EXTRA_OF.get(name, "demo") for name in missing})
        raise ToolchainError(f"{what} needs {', '.join(missing)}: pip install 'quantbench[{','.join(extras)}]'")
    return sys.executable


class Toolchain(Frozen):
    """One environment, as ``bench/toolchains/NAME.toml`` describes it."""

    name: str
    title: str
    what_for: str
    """In half a line, for a reader."""
    python: tuple[str, ...] = ()
    """Python versions it can be installed for, e.g. ``3.11``; empty for whichever runs quantbench."""
    requirements: tuple[str, ...]
    """What is asked for, each ``name==version``; empty for what quantbench's own extras bring."""
    no_deps: tuple[str, ...] = ()
    """Installed after the rest, without what they depend on."""
    constraints: tuple[str, ...] = ()
    """Versions of what the requirements depend on; used where it is needed at all."""
    modules: tuple[str, ...] = Field(min_length=1)
    """Import names."""
    disk_bytes: NonNegativeInt
    download_bytes: NonNegativeInt
    on_cpu: str
    """What it can and cannot do on a machine without an accelerator, with the exact errors."""
    check: str
    """Python that imports and exercises it, and prints versions as one line of JSON."""
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
    """What a finished environment says of itself; written last."""

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
        ToolchainError: there is none, or its file is wrong.
    """
    file = definition_file(name)
    if name not in names():
        raise ToolchainError(f"no toolchain '{name}'; known are {', '.join(names())}")
    try:
        return Toolchain.model_validate({"name": name, **tomllib.loads(file.read_text())})
    except tomllib.TOMLDecodeError as error:
        raise ToolchainError(f"{file} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ToolchainError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def base_python(chain: Toolchain) -> tuple[str, str]:
    """Return (the interpreter to build with, its version such as ``3.11``).

    Raises:
        ToolchainError: no suitable Python is here.
    """
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not chain.python or current in chain.python:
        return sys.executable, current
    for version in chain.python:
        program = shutil.which(f"python{version}")
        if program:
            return program, version
    needed = " or ".join(f"python{version}" for version in chain.python)
    raise ToolchainError(f"toolchain {chain.name} needs {needed}, and only Python {current} is here: install it")


def folder(chain: Toolchain, version: str) -> Path:
    """Return where the environment of ``chain`` for a Python version lies, built or not."""
    asked = [chain.requirements, chain.no_deps, chain.constraints, version]
    return cache_dir() / "toolchains" / f"{chain.name}-{sha256_text(canonical_json(asked))[:12]}"


def read_built(place: Path) -> ToolchainManifest | None:
    """Return what a finished environment says of itself; None where there is none, or a half-built one."""
    try:
        written = json.loads((place / MANIFEST).read_bytes())
        manifest = ToolchainManifest.model_validate(
            rename_fields(written, seconds="build_s")
        )  # its name before it carried the unit
    except (OSError, ValueError):
        return None
    return manifest if (place / "bin" / "python").exists() else None


def state(chain: Toolchain) -> State:
    """Return whether a toolchain can be used, and by which interpreter."""
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
        what: what it is for, for the message.

    Raises:
        ToolchainError: it is not built; names the one command to type.
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
    """Return the environment variables with which the interpreter of toolchain ``name`` is to be run.

    They are those of its file; where a folder ``bench/toolchains/NAME/`` lies beside that, PYTHONPATH names it.

    Raises:
        ToolchainError: there is no such toolchain.
    """
    stand_ins = FOLDER / name
    return {**({"PYTHONPATH": str(stand_ins)} if stand_ins.is_dir() else {}), **read(name).variables}


def pinned_versions(name: str) -> dict[str, str]:
    """Return {package: version} of what toolchain ``name`` asks for.

    Raises:
        ToolchainError: there is no such toolchain.
    """
    chain = read(name)
    return dict(text.split("==") for text in (*chain.requirements, *chain.no_deps))
