"""Engines: how each starts a server, what it can prove, and what it refuses or emulates.

One module per engine, named by ``name:`` in an engine config, with one subclass of `Engine`. Generic code asks the
engine that was resolved from the composed config; :mod:`bench.servers.lifecycle` starts and stops its server.
"""

import inspect
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt, SerializeAsAny

from bench.machine import diagnose
from bench.machine.diagnose import Diagnosis, Kind
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.speed.prompts import ordinary_vocabulary
from bench.toolchains.toolchain import definition_file, interpreter_for, pinned_versions, toolchain_interpreter
from quantize.architecture import Architecture
from quantize.checkpoint import Manifest, hash_file
from quantize.formats import Format
from quantize.key import Frozen
from quantize.plugins import class_named, names

Ask = Callable[[str], tuple[int, bytes]]
"""Sends a GET request for a path and returns (HTTP status, body)."""
Log = Callable[[], str]
"""Returns what the server has printed so far."""
TIMEOUT = "_timeout_s"
"""Suffix of fields that change no result."""


class EngineConfig(Frozen):
    """Fields of every engine."""

    startup_timeout_s: PositiveFloat
    request_timeout_s: PositiveFloat
    first_token_timeout_s: PositiveFloat
    stall_timeout_s: PositiveFloat


@dataclass(frozen=True)
class Launch:
    """Arguments that any engine's server is started with."""

    checkpoint: Path
    context_length: int
    """Longest prompt plus answer, tokens."""
    port: int
    """On 127.0.0.1."""
    share: float = 1.0
    """Share of the device's memory that it may plan with; less than 1 where another server runs next to it."""
    running_servers: int = 0
    """Servers with the same share that are already running."""
    yarn: Yarn | None = None
    """How the model's positions are stretched; None where they are not."""


class Parallelism(Frozen):
    """How a server is split over devices."""

    tp: PositiveInt = 1
    """Devices that share each layer."""
    pp: PositiveInt = 1
    """Stages of layers."""
    dp: PositiveInt = 1
    """Replicas of the model."""
    whole_experts: bool = False
    """Whether experts are distributed as units instead of being split."""
    nodes: PositiveInt = 1
    """Machines that form one server."""
    node_rank: int = 0
    """Rank of this machine among them; rank 0 answers requests."""

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.tp * self.pp * self.dp


class ServedModel(Frozen):
    """The model that a server would load, known before anything is started."""

    architecture: Architecture
    form: Format | None
    """How the checkpoint stores its quantized layers; None if nothing is quantized."""
    context_length: PositiveInt
    """Longest prompt plus answer, tokens."""
    yarn: Yarn | None
    on_cpu: bool | None = None
    """Whether the plan is for a machine without a GPU; None for this machine."""


class Engine(Frozen, ABC):
    """One engine with its validated config. Methods that are not abstract have a default that suits most engines."""

    name: str
    """Name of its config and its module."""
    config: SerializeAsAny[EngineConfig]

    toolchain_packages: ClassVar[tuple[str, ...]] = ()
    """Packages that the current interpreter must have where the engine has no toolchain of its own."""
    keeps_prefixes: ClassVar[bool] = True
    """Whether the server has a prefix cache that could answer in place of the model."""
    splits: ClassVar[bool] = False
    """Whether a model can be split over several devices."""
    parallel_fields: ClassVar[tuple[str, ...]] = ()
    """Config fields that set the split."""
    published_source: ClassVar[str | None] = None
    """Page of published figures measured on the kernels closest to this engine's; None for no forecast."""
    log_patterns: ClassVar[Mapping[Kind, str]] = {}
    """Regular expressions for the engine's own log lines, by kind of failure; added to the general ones."""
    advice: ClassVar[Mapping[Kind, str]] = {}
    """What to change, naming the config field, where the general advice is not specific enough."""

    @property
    @abstractmethod
    def protocol(self) -> str:
        """Module of :mod:`bench.speed.protocols` that the server speaks."""

    @abstractmethod
    def command(self, interpreter: str, launch: Launch) -> list[str]:
        """Return the command that serves a checkpoint on 127.0.0.1."""

    @abstractmethod
    def facts(self, ask: Ask, log: Log) -> tuple[EngineInfo, ServerFacts]:
        """Return what the ready server reports about itself: as kept in the record, and as read by generic code.

        A field that the record keeps needs a declaration in :mod:`bench.records.engine_info`.

        Raises:
            EngineError: the server does not report it.
        """

    def diagnosis(self, log: str) -> Diagnosis | None:
        """Return what went wrong according to the server's log; None if it has no known message."""
        return diagnose.diagnose(log, self.log_patterns, self.advice)

    def why(self, log: str) -> str:
        """Return one line that says why the server ended and what to change."""
        return diagnose.why(log, self.log_patterns, self.advice)

    @property
    def toolchain(self) -> str | None:
        """Toolchain that the server runs in; None for the current interpreter."""
        return None

    def interpreter(self, what: str) -> str | None:
        """Return the Python that runs the server; None for an engine that starts nothing.

        Args:
            what: what needs it, for the message.

        Raises:
            ToolchainError: it is missing; names the command that installs it.
        """
        if self.toolchain is not None:
            return toolchain_interpreter(self.toolchain, what)
        return interpreter_for(self.toolchain_packages, what)

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages it computes with, unless they are the current interpreter's."""
        return pinned_versions(self.toolchain) if self.toolchain else {}

    def code(self) -> dict[str, str]:
        """Return {file name: sha256} of the code and toolchain that decide how the server computes."""
        files = [*self.code_files(), *([definition_file(self.toolchain)] if self.toolchain else [])]
        return {file.name: hash_file(file).sha256 for file in files}

    def code_files(self) -> Sequence[Path]:
        """Return the engine's own files: its module, its launcher, its server."""
        return [Path(inspect.getfile(type(self)))]

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what the server computes."""
        fields = self.config.model_dump(mode="json")
        return {name: value for name, value in fields.items() if not name.endswith(TIMEOUT)}

    @property
    def address(self) -> str | None:
        """Address of an external server; None for one that is started here."""
        return None

    @property
    def is_external(self) -> bool:
        """Whether the server is already running, so that nothing is built or started."""
        return self.address is not None

    def api_key(self) -> str | None:
        """Return the API key that the server will require.

        Raises:
            EngineError: an external server's key is missing.
        """
        return secrets.token_urlsafe(16)

    def environment(self, api_key: str) -> dict[str, str]:
        """Return environment variables for the server; a key is passed here and never on a command line."""
        return {}

    @property
    def served_model(self) -> str:
        """Name that requests must give the model; empty where any name is accepted."""
        return ""

    @property
    def device(self) -> Literal["auto", "cuda", "cpu"]:
        """Requested device."""
        return "auto"

    @property
    def dtype(self) -> str | None:
        """Configured compute type; None for an engine without such a setting."""
        return None

    @property
    def kv_cache_dtype(self) -> str:
        """Type of cached keys and values; ``auto`` for the model's type."""
        return "auto"

    @property
    def parallelism(self) -> Parallelism:
        """How the server is split over devices."""
        return Parallelism()

    def parallel_overrides(self, parallelism: Parallelism) -> tuple[str, ...]:
        """Return the overrides that split a server in this way."""
        return ()

    @property
    def memory_fraction(self) -> float | None:
        """Share of a device's memory that the server plans with; None if it has no such setting."""
        return None

    def threads(self) -> int | None:
        """Return the number of CPU threads it computes with; None unless one of its own fields sets it."""
        return None

    def context_length(self, wanted: int) -> int:
        """Return the longest prompt plus answer in tokens: ``wanted``, unless one of its own fields overrides it."""
        return wanted

    def refuses(self, model: ServedModel) -> str | None:
        """Return why it is known to be unable to serve a model; None if it can, or if only a trial run can show it."""
        return None

    def emulates(self, form: Format | None, on_cpu: bool | None = None) -> bool:
        """Return whether it computes with kernels other than those of the quantized format.

        Args:
            form: how the checkpoint stores its quantized layers; None if nothing is quantized.
            on_cpu: whether the plan is for a machine without a GPU; None for this machine.
        """
        return False

    def expanded(self, facts: ServerFacts, manifest: Manifest, bf16_bytes: int) -> str | None:
        """Return why the server appears to have expanded quantized weights to 16 bits; None where it has not."""
        return None

    def unscorable(self) -> str | None:
        """Return why accuracy tasks cannot run and what to type; None if they can, or if only a trial run shows it."""
        return None

    def unproven(self) -> tuple[str, ...]:
        """Return what cannot be verified about the server, one sentence each; the protocol adds its own."""
        return ()

    def tokenizer(self, checkpoint: Path | None) -> Path:
        """Return the folder with the served model's tokenizer.

        Raises:
            SourceError: it is unavailable.
        """
        assert checkpoint is not None
        return checkpoint

    def vocabulary(self, architecture: Architecture, checkpoint: Path | None) -> tuple[int, ...]:
        """Return the token ids that prompts are sampled from.

        Raises:
            SourceError: the tokenizer cannot be read.
        """
        return ordinary_vocabulary(self.tokenizer(checkpoint) / "tokenizer.json")

    def text_of(self) -> Callable[[Sequence[int]], str] | None:
        """Return the function that turns token ids into the text to send; None where ids are sent."""
        return None


def engine(name: str, fields: Mapping[str, Any]) -> Engine:
    """Return engine ``name`` with its fields.

    Raises:
        PluginError: there is no such engine.
        ValidationError: a field is invalid; locations start at the field.
    """
    kind = class_named("bench.engines", name, Engine)  # type: ignore[type-abstract]
    config = kind.model_fields["config"].annotation
    assert config is not None
    return kind(name=name, config=config.model_validate(fields))


def splitting() -> tuple[str, ...]:
    """Return the names of the engines that can split a model over several devices."""
    kinds = {name: class_named("bench.engines", name, Engine) for name in names("bench.engines")}  # type: ignore[type-abstract]
    return tuple(name for name, kind in kinds.items() if kind.splits)
