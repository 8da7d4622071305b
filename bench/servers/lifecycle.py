"""Start a server, verify that the started process answers, detect when it dies or hangs, and clean up after it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import format as fmt
from bench.engines import Engine, Launch
from bench.errors import EngineError
from bench.machine.child import POLL_S, Child, Pulse
from bench.records.engine_info import EngineInfo
from bench.records.record import ServerFacts, Yarn
from bench.servers.readiness import Door, PortTakenError, Start, free_port
from quantize.checkpoint import Checkpoint
from quantize.formats import Format
from quantize.scheme import scheme_of

PORTS = 3
"""Ports to try before giving up. Chosen: a free port is rarely taken between the check and the start."""
HUNG_S = 10.0
"""A server with requests in flight that shows no activity for this long hangs."""
LOOK_S = 2.0
"""Silence after which activity is checked."""
BLINK_S = 0.05
"""Grace period for a process to be seen as ended after its connection broke."""
DYING_S = 5.0
"""Longest time for a server that no longer listens to end."""
RETURN_S = 30.0
"""Longest time for the driver to release a dead server's memory."""
RETURN_SLACK_BYTES = 64 * 2**20
"""Device memory still in use that counts as released. Chosen: a driver keeps some megabytes, a server gigabytes."""

DeviceMemory = Callable[[], Sequence[int] | None]
"""Returns the bytes in use on each accelerator; None where there is none, or the use is unknown."""


@dataclass
class Aftermath:
    """What was observed when the server ended; complete once the ``with`` block of `serve` is left."""

    memory_returned: bool | None = None
    """Whether the accelerators' memory use fell back to its level before the start; None where it is unknown."""
    left_behind: tuple[int, ...] = ()
    """Process ids of the server that could not be ended."""
    hung: str | None = None
    """How it hung, if it did; the server was killed then."""


@dataclass(frozen=True)
class RunningEngine:
    """A server that has answered a real generation."""

    engine: Engine
    base_url: str
    api_key: str | None
    info: EngineInfo
    """What the server reports about itself."""
    facts: ServerFacts
    emulates: bool
    child: Child | None
    """None for an external server."""
    memory_before_bytes: tuple[int, ...] | None = None
    """Bytes in use on each accelerator before its start; None where there is none, or the use is unknown."""
    startup_s: float = 0.0
    """Time from its start to its first answer."""
    pulse: Pulse | None = None
    device_busy: Callable[[], bool] | None = None
    """Returns whether an accelerator computes; a server that waits for one shows no other activity."""
    after: Aftermath = field(default_factory=Aftermath)

    @property
    def ended(self) -> bool:
        """Whether the server has ended. Waits for one that is ending, so do not call it during a measurement."""
        if self.child is None:
            return False
        self.child.wait(BLINK_S)
        if self.child.exit_code is None and not self.child.listens_on(Door(self.base_url, None).port):
            # Connections close shortly before the process ends.
            self.child.wait(DYING_S)
        return self.child.exit_code is not None

    def gone(self) -> str | None:
        """Return how and why the server ended; None while it runs, and for an external server."""
        if self.child is None or self.child.exit_code is None:
            return None
        return self.after.hung or f"{self.child.what} {self.child.how_it_ended()}"

    def hung(self, silent_s: float) -> str | None:
        """Return how the server hangs; None if it works. Call about once a second while requests are in flight.

        It hangs if for `HUNG_S` no token arrived, none of its processes used the CPU or a disk or wrote to the log, and
        no accelerator computed.

        Args:
            silent_s: seconds since the last token of any request in flight.
        """
        # The check takes milliseconds, which would disturb a measurement while tokens arrive.
        if silent_s < LOOK_S or self.pulse is None or self.child is None:
            return None
        still_s = self.pulse.still_s()
        if min(still_s, silent_s) < HUNG_S or (self.device_busy is not None and self.device_busy()):
            return None
        return (
            f"{self.child.what} hangs: no token for {silent_s:.0f} s and no activity for {still_s:.0f} s: "
            f"{self.child.last_lines(2)} (log: {self.child.log_file})"
        )

    def alive(self, silent_s: float = 0.0) -> str | None:
        """Return why the server is gone; None if it is alive. Kills a server that hangs (see `hung`).

        Args:
            silent_s: seconds since the last token of any request in flight; 0 if there is none.
        """
        if self.child is not None and self.child.exit_code is None and (reason := self.hung(silent_s)) is not None:
            self.after.hung = reason
            self.child.kill()
            self.child.wait(DYING_S)  # its threads end shortly after the process is reported as ended
            return reason
        return self.gone()


def _quiet(text: str) -> None:
    """Discard a note."""


@contextmanager
def serve(
    engine: Engine,
    checkpoint: Checkpoint | None,
    *,
    context_length: int,
    yarn: Yarn | None = None,
    share: float = 1.0,
    running_servers: int = 0,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
    on_note: Callable[[str], None] = _quiet,
    device_memory: DeviceMemory | None = None,
    device_busy: Callable[[], bool] | None = None,
) -> Iterator[RunningEngine]:
    """Serve a checkpoint for the duration of a ``with`` block.

    Args:
        engine: what serves it.
        checkpoint: what to serve; None for an external server.
        context_length: longest prompt plus answer, tokens.
        yarn: how the model's positions are stretched to that length.
        share: share of the device's memory that it may plan with.
        running_servers: servers with the same share that are already running.
        what: name for messages, e.g. ``server of smollm2-135m fp8``.
        log_file: receives the server's own output.
        on_wait: called a few times a second while the server starts.
        on_note: receives notes for readers of the record.
        device_memory: returns the accelerators' memory in use, to check that the server releases it.
        device_busy: returns whether an accelerator computes.

    Raises:
        EngineError: the server did not become ready.
        ToolchainError: packages it needs are missing.
    """
    if engine.address is not None:
        yield _attached(engine, engine.address)
        return
    assert checkpoint is not None
    form = form_of(checkpoint)
    baseline = device_memory() if device_memory else None
    after = Aftermath()
    child, door, started_s = _started(
        engine,
        lambda port: Launch(checkpoint.path, context_length, port, share, running_servers, yarn),
        what=what,
        log_file=log_file,
        on_wait=on_wait,
        on_note=on_note,
    )
    try:
        info, facts = engine.facts(door.ask, child.log_text)
        yield RunningEngine(
            engine=engine,
            base_url=door.base_url,
            api_key=door.api_key,
            info=info,
            facts=facts,
            emulates=engine.emulates(form),
            child=child,
            memory_before_bytes=tuple(baseline) if baseline is not None else None,
            startup_s=started_s,
            pulse=Pulse(child),
            device_busy=device_busy,
            after=after,
        )
    finally:
        child.stop()
        _look_back(after, child, baseline, device_memory, on_note)


def _started(
    engine: Engine,
    launch: Callable[[int], Launch],
    *,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
    on_note: Callable[[str], None],
) -> tuple[Child, Door, float]:
    """Return a process that has generated a token, its address, and its startup time in seconds.

    Raises:
        EngineError: it did not become ready.
        ToolchainError: packages it needs are missing.
    """
    interpreter, api_key = engine.interpreter(f"engine {engine.name}"), engine.api_key()
    assert interpreter is not None
    assert api_key is not None
    for attempt in range(1, PORTS + 1):
        port = free_port()
        door = Door(f"http://127.0.0.1:{port}", api_key)
        begin = time.monotonic()
        child = Child(
            engine.command(interpreter, launch(port)),
            what=what,
            log_file=log_file,
            env=engine.environment(api_key),
            cwd=Path.cwd(),
            explain=engine.why,
        )
        try:
            start = Start(
                child,
                door,
                generate=partial(door.generate, engine.protocol, engine.served_model),
                diagnosis=engine.diagnosis,
                timeout_s=engine.config.startup_timeout_s,
                # The first of several nodes waits for the others without any activity.
                patient=engine.parallelism.nodes > 1,
            )
            start.wait(on_wait)
            return child, door, time.monotonic() - begin
        except PortTakenError as error:
            child.stop()
            if attempt == PORTS:
                raise
            on_note(f"port {port} was taken ({error}); trying another port")
        except BaseException:
            child.stop()
            raise
    raise AssertionError("the last attempt returns or raises")


def form_of(checkpoint: Checkpoint) -> Format | None:
    """Return how a checkpoint stores its quantized layers; None if nothing is quantized."""
    config = checkpoint.manifest.quantization_config
    return None if config is None else scheme_of(config).form


def _attached(engine: Engine, address: str) -> RunningEngine:
    """Return an external server, once it has generated a token.

    Raises:
        EngineError: it does not answer, or cannot generate.
    """
    door = Door(address.rstrip("/"), engine.api_key())
    info, facts = engine.facts(door.ask, lambda: "")
    status, body = door.generate(engine.protocol, engine.served_model, engine.config.startup_timeout_s)
    if status != 200:
        answer = body[:200].decode(errors="replace") or "no answer"
        raise EngineError(f"{address} cannot generate (HTTP {status}): {answer}")
    return RunningEngine(
        engine=engine,
        base_url=door.base_url,
        api_key=door.api_key,
        info=info,
        facts=facts,
        emulates=False,  # the kernels of an external server are unknown
        child=None,
    )


def _look_back(
    after: Aftermath,
    child: Child,
    baseline: Sequence[int] | None,
    device_memory: DeviceMemory | None,
    on_note: Callable[[str], None],
) -> None:
    """Note what the stopped server has left behind: processes, and memory of accelerators."""
    after.left_behind = tuple(child.left_behind())
    if after.left_behind:
        on_note(f"{child.what} left processes behind that cannot be ended: {', '.join(map(str, after.left_behind))}")
    if baseline is None or device_memory is None:
        return
    end = time.monotonic() + RETURN_S
    while True:
        kept = [used - before for used, before in zip(device_memory() or (), baseline, strict=False)]
        after.memory_returned = all(more <= RETURN_SLACK_BYTES for more in kept)
        if after.memory_returned or time.monotonic() > end:
            break
        time.sleep(POLL_S)
    if not after.memory_returned:
        per_device = ", ".join(f"{fmt.space(more)} on device {index}" for index, more in enumerate(kept) if more > 0)
        on_note(f"{child.what} ended, but its memory was not released within {RETURN_S:g} s: {per_device}")


def join(
    engine: Engine,
    checkpoint: Checkpoint,
    *,
    context_length: int,
    yarn: Yarn | None = None,
    what: str,
    log_file: Path,
    on_wait: Callable[[], None],
) -> str:
    """Join a multi-node server as a worker until the head node shuts it down; return how it ended.

    Raises:
        ToolchainError: packages it needs are missing.
    """
    interpreter, api_key = engine.interpreter(f"engine {engine.name}"), engine.api_key()
    assert interpreter is not None
    assert api_key is not None
    argv = engine.command(interpreter, Launch(checkpoint.path, context_length, free_port(), yarn=yarn))
    env = engine.environment(api_key)
    with Child(argv, what=what, log_file=log_file, env=env, cwd=Path.cwd(), explain=engine.why) as child:
        while child.exit_code is None:
            on_wait()
            time.sleep(POLL_S)
        return f"{what} {child.how_it_ended()}"
