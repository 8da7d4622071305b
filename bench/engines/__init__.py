"""One module per engine, named by ``name:`` in an engine config. :mod:`bench.servers.lifecycle` starts and stops it.

Each module holds

- ``Config``: its fields, frozen and checked; ``startup_timeout_s``, ``request_timeout_s``, ``first_token_timeout_s``
  and ``stall_timeout_s`` among them;
- ``SCORES``: whether accuracy tasks can run over it;
- ``protocol(config) -> str``: the module of :mod:`bench.speed.protocols` that its server speaks;
- ``interpreter(config, what) -> str | None``: the Python that runs the server; raises ToolchainError with what to type
  where it is missing; None for an engine that starts nothing;
- ``address(config) -> str | None``: of a server that somebody else runs; None for one that is started here;
- ``command(config, interpreter, launch) -> list[str]``: what starts it; see `Launch`;
- ``environment(config, api_key) -> dict[str, str]``: variables for the server; the key never stands on a command line;
- ``facts(config, ask, log) -> tuple[EngineInfo, ServerFacts]``: what the server that is ready reports of itself;
  ``ask(path)`` returns (HTTP status, body) of a GET, ``log()`` returns what it has printed so far. A field that a
  record shall keep needs a place in :mod:`bench.records.engine_info`;
- ``refuses(config, form) -> str | None``: why a checkpoint of this format cannot run on it, known before any time is
  spent; None if it can, or if only a try can tell;
- ``emulates(config, manifest) -> bool``: whether it computes on kernels other than those of what is quantized.

It may hold

- ``served_model(config) -> str``: what requests must call the model;
- ``expanded(facts, manifest, bf16_bytes) -> str | None``: the words that say that the server expanded the weights;
- ``room(config) -> tuple[int, float]``: accelerators that a server takes, and the part of their memory it plans with;
- ``threads(config) -> int | None``: with how many it computes on a CPU, where a field of its own says so;
- ``versions(config) -> dict[str, str]``: of what it computes with, where that is not the current interpreter's;
- ``context(config, context_length) -> int``: longest prompt plus answer, where a field of its own changes the model's;
- ``KEEPS_PREFIXES = False`` where there is no prefix cache that could answer for the model;
- ``vocabulary(config, architecture)``, ``text_of(config)``, ``unproven(config)``, ``tokenizer(config)``,
  ``unscorable(config)``: for servers that somebody else runs; see :mod:`bench.engines.attach`.
"""

from dataclasses import dataclass
from pathlib import Path

from bench.records.record import Yarn


@dataclass(frozen=True)
class Launch:
    """What a server is started with, whichever engine it is."""

    checkpoint: Path
    context_length: int
    """Longest prompt plus answer, tokens."""
    port: int
    """On 127.0.0.1."""
    share: float = 1.0
    """The part of the device's memory that it may plan with; less than 1 where another server stands beside it."""
    beside: int = 0
    """Servers with the same share that have taken theirs already."""
    yarn: Yarn | None = None
    """How the model's positions are stretched; None for as it is."""
