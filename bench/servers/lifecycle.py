"""Start a server, know that it really answers and that it is ours, see when it dies or hangs, leave nothing behind."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.config.plugins import plugin
from bench.config.spec import PartSpec
from bench.engines import Launch
from bench.errors import EngineError
from bench.machine.child import Child, Pulse
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.servers.readiness import POLL_SECONDS, Door, PortTakenError, Start, free_port
from quantize.checkpoint import Checkpoint

PORTS = 3
"""How many ports are tried before giving up."""
HUNG_SECONDS = 10.0
"""A server that owes tokens and shows no sign of life for this long hangs."""
LOOK_SECONDS = 2.0
"""A silence that makes it worth looking for signs of life."""
BLINK_SECONDS = 0.05
DYING_SECONDS = 5.0
"""How long a server that no longer listens may take to end."""
RETURN_SECONDS = 30.0
"""How long the driver may take to give a dead server's memory back."""
RETURN_SLACK_BYTES = 64 * 2**20

DeviceMemory = Callable[[], Sequence[int] | None]
"""Returns the bytes in use on each accelerator; None where there is none, or nobody can tell."""


@dataclass
class Aftermath:
    """What was seen of the server's end; complete when the ``with`` block of `serve` is left."""

    memory_returned: bool | None = None
    """Whether the accelerators' memory was back at what it was before the start; None where nobody can tell."""
    left_behind: tuple[int, ...] = ()
    """Processes of the server that could not be ended."""
    hung: str | None = None
    """That it hung, and how; it was ended then."""


@dataclass(frozen=True)
class RunningEngine:
    """A server that has answered a real generation."""

    name: str
    base_url: str
    api_key: str | None
    protocol: str
    """A module of :mod:`bench.speed.protocols`."""
    info: EngineInfo
    """What the server says of itself."""
    facts: ServerFacts
    emulates: bool
    child: Child | None
    """None for a server that somebody else runs."""
    request_timeout_s: float
    first_token_timeout_s: float
    stall_timeout_s: float
    served_model: str = ""
    """What requests must call the model; empty where the protocol sends no name, or the server takes any."""
    memory_before: tuple[int, ...] | None = None
    """Bytes in use on each accelerator before its start; None where there is none, or nobody can tell."""
    started_s: float = 0.0
    """From its start to its first answer."""
    pulse: Pulse | None = None
    device_busy: Callable[[], bool] | None = None
    """Tells whether an accelerator computes; a server that waits for one shows no other sign of life."""
    after: Aftermath = field(default_factory=Aftermath)

    @property
    def ended(self) -> bool:
        """Whether the server has ended. One that is dying is waited for, so ask only while nothing is measured."""
        if self.child is None:
            return False
        self.child.wait(BLINK_SECONDS)
        if self.child.exit_code is None and not self.child.listens_on(Door(self.base_url, None).port):
            # Its connections end a moment before the process does.
            self.child.wait(DYING_SECONDS)
        return self.child.exit_code is not None

    def gone(self) -> str | None:
        """Return how and why the server ended; None while it runs, and for one that somebody else runs."""
        if self.child is None or self.child.exit_code is None:
            return None
        return self.after.hung or f"{self.child.what} {self.child.how_it_ended()}"

    def hung(self, silent_s: float) -> str | None:
        """Return that the server hangs; None if it works. Ask about once a second while requests are under way.

        It hangs if no token came for `HUNG_SECONDS` and none of its processes used the CPU, a disk or its log, and no
        accelerator computed, for as long.

        Args:
            silent_s: seconds since the last token of any request that is under way.
        """
        # Looking takes milliseconds, which a client that measures has not got while tokens come.
        if silent_s < LOOK_SECONDS or self.pulse is None or self.child is None:
            return None
        still_s = self.pulse.still_s()
        if min(still_s, silent_s) < HUNG_SECONDS or (self.device_busy is not None and self.device_busy()):
            return None
        return (
            f"{self.child.what} hangs: no token for {silent_s:.0f} s and no sign of life for {still_s:.0f} s: "
            f"{self.child.last_lines(2)} (log: {self.child.log_file})"
        )

    def alive(self, silent_s: float = 0.0) -> str | None:
        """Return why the server is gone, None if all is well; one that hangs (see `hung`) is ended here.

        Args:
            silent_s: seconds since the last token of any request that is under way; 0 if none is.
        """
        if self.child is not None and self.child.exit_code is None and (reason := self.hung(silent_s)) is not None:
            self.after.hung = reason
            self.child.kill()
            self.child.wait(DYING_SECONDS)  # its threads end a moment after it can be seen to have ended
            return reason
        return self.gone()


def _quiet(text: str) -> None:
    """Say nothing."""


@contextmanager
def serve(
    engine: PartSpec,
    checkpoint: Checkpoint | None,
    *,
    context_length: int,
    yarn: Yarn | None = None,
    share: float = 1.0,
    beside: int = 0,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
    on_note: Callable[[str], None] = _quiet,
    device_memory: DeviceMemory | None = None,
    device_busy: Callable[[], bool] | None = None,
) -> Iterator[RunningEngine]:
    """Serve a checkpoint for the duration of a ``with`` block.

    Args:
        engine: which engine, with its checked config.
        checkpoint: what to serve; None for a server that somebody else runs.
        context_length: longest prompt plus answer, tokens.
        yarn: how the model's positions are stretched to that.
        share: the part of the device's memory that it may plan with.
        beside: servers with the same share that run already.
        what: a name for messages, e.g. ``server of smollm2-135m fp8``.
        log_file: where the server's own output goes.
        on_wait: called a few times a second while the server starts.
        on_note: told in words what a reader of the record should know.
        device_memory: tells the accelerators' memory in use, for what the server must give back.
        device_busy: tells whether an accelerator computes.

    Raises:
        EngineError: the server did not become ready.
        ToolchainError: packages it needs are missing.
    """
    module = plugin("bench.engines", engine.module)
    config = module.Config.model_validate(engine.config)
    address = module.address(config)
    if address is not None:
        yield _attached(engine, module, config, address, checkpoint)
        return
    assert checkpoint is not None
    interpreter = module.interpreter(config, f"engine {engine.name}")
    api_key = secrets.token_urlsafe(16)
    baseline = device_memory() if device_memory else None
    after = Aftermath()
    child, door, started_s = _started(
        module,
        config,
        lambda port: module.command(
            config, interpreter, Launch(checkpoint.path, context_length, port, share, beside, yarn)
        ),
        api_key,
        what=what,
        log_file=log_file,
        on_wait=on_wait,
        on_note=on_note,
    )
    try:
        info, facts = module.facts(config, door.ask, child.log_text)
        yield RunningEngine(
            name=engine.name,
            base_url=door.base_url,
            api_key=api_key,
            protocol=module.protocol(config),
            info=info,
            facts=facts,
            emulates=module.emulates(config, checkpoint.manifest),
            child=child,
            request_timeout_s=config.request_timeout_s,
            first_token_timeout_s=config.first_token_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
            served_model=_served_model(module, config),
            memory_before=tuple(baseline) if baseline is not None else None,
            started_s=started_s,
            pulse=Pulse(child),
            device_busy=device_busy,
            after=after,
        )
    finally:
        child.stop()
        _look_back(after, child, baseline, device_memory, on_note)


def _started(
    module: ModuleType,
    config: Any,
    command: Callable[[int], list[str]],
    api_key: str,
    *,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
    on_note: Callable[[str], None],
) -> tuple[Child, Door, float]:
    """Return a child that has generated a token, where it answers, and how long that took in seconds.

    Raises:
        EngineError: it did not become ready.
    """
    for attempt in range(1, PORTS + 1):
        port = free_port()
        door = Door(f"http://127.0.0.1:{port}", api_key)
        begin = time.monotonic()
        child = Child(
            command(port), what=what, log_file=log_file, env=module.environment(config, api_key), cwd=Path.cwd()
        )
        try:
            start = Start(
                child,
                door,
                generate=partial(_generate, door, module, config),
                timeout_s=config.startup_timeout_s,
                # The first of several nodes waits for the others, without a sign of life.
                patient=getattr(config, "nnodes", 1) > 1,
            )
            start.wait(on_wait)
            return child, door, time.monotonic() - begin
        except PortTakenError as error:
            child.stop()
            if attempt == PORTS:
                raise
            on_note(f"port {port} was taken ({error}); trying another one")
        except BaseException:
            child.stop()
            raise
    raise AssertionError("the last attempt returns or raises")


def _served_model(module: ModuleType, config: Any) -> str:
    return str(module.served_model(config)) if hasattr(module, "served_model") else ""


def _generate(door: Door, module: ModuleType, config: Any, timeout_s: float) -> tuple[int, bytes]:
    return door.generate(module.protocol(config), _served_model(module, config), timeout_s)


def _attached(
    engine: PartSpec, module: ModuleType, config: Any, address: str, checkpoint: Checkpoint | None
) -> RunningEngine:
    """Return a server that somebody else runs, once it has generated a token.

    Raises:
        EngineError: it does not answer, or cannot generate.
    """
    variable = getattr(config, "api_key_env", None)
    api_key = os.environ.get(variable) if variable else None
    if variable and not api_key:
        raise EngineError(f"engine.api_key_env={variable}: no such environment variable; export {variable}=…")
    door = Door(address.rstrip("/"), api_key)
    info, facts = module.facts(config, door.ask, lambda: "")
    status, body = _generate(door, module, config, config.startup_timeout_s)
    if status != 200:
        said = body[:200].decode(errors="replace") or "no answer"
        raise EngineError(f"{address} cannot generate (HTTP {status}): {said}")
    return RunningEngine(
        name=engine.name,
        base_url=door.base_url,
        api_key=api_key,
        protocol=module.protocol(config),
        info=info,
        facts=facts,
        emulates=bool(checkpoint and module.emulates(config, checkpoint.manifest)),
        child=None,
        request_timeout_s=config.request_timeout_s,
        first_token_timeout_s=config.first_token_timeout_s,
        stall_timeout_s=config.stall_timeout_s,
        served_model=_served_model(module, config),
    )


def _look_back(
    after: Aftermath,
    child: Child,
    baseline: Sequence[int] | None,
    device_memory: DeviceMemory | None,
    on_note: Callable[[str], None],
) -> None:
    """Note what the server, which was stopped, has left: processes, and memory of accelerators."""
    after.left_behind = tuple(child.left_behind())
    if after.left_behind:
        on_note(f"{child.what} has left processes that cannot be ended: {', '.join(map(str, after.left_behind))}")
    if baseline is None or device_memory is None:
        return
    end = time.monotonic() + RETURN_SECONDS
    while True:
        kept = [used - before for used, before in zip(device_memory() or (), baseline, strict=False)]
        after.memory_returned = all(more <= RETURN_SLACK_BYTES for more in kept)
        if after.memory_returned or time.monotonic() > end:
            break
        time.sleep(POLL_SECONDS)
    if not after.memory_returned:
        told = ", ".join(f"{more / 1e9:.1f} GB on device {index}" for index, more in enumerate(kept) if more > 0)
        on_note(f"{child.what} has ended, and its memory was not given back within {RETURN_SECONDS:g} s: {told}")


def joins(engine: PartSpec) -> bool:
    """Tell whether the engine only joins a server whose first node is another machine."""
    module = plugin("bench.engines", engine.module)
    return bool(getattr(module.Config.model_validate(engine.config), "node_rank", 0) > 0)


def join(
    engine: PartSpec,
    checkpoint: Checkpoint,
    *,
    context_length: int,
    yarn: Yarn | None = None,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
) -> str:
    """Be one of the further nodes of a server until the first one ends it; return how it ended.

    Raises:
        ToolchainError: packages it needs are missing.
    """
    module = plugin("bench.engines", engine.module)
    config = module.Config.model_validate(engine.config)
    interpreter = module.interpreter(config, f"engine {engine.name}")
    argv = module.command(config, interpreter, Launch(checkpoint.path, context_length, free_port(), yarn=yarn))
    env = module.environment(config, secrets.token_urlsafe(16))
    with Child(argv, what=what, log_file=log_file, env=env, cwd=Path.cwd()) as child:
        while child.exit_code is None:
            on_wait()
            time.sleep(POLL_SECONDS)
        return f"{what} {child.how_it_ended()}"
